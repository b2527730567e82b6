"""Sentences of the built-in English speech: meetings, trade, journeys, dates, times, prices.

About eighty words; numbers are written as they are spoken. Verbs agree with subjects and nouns with numbers, so
language knowledge helps recognition. Many words differ in one sound (thirteen and thirty, june and july).
"""

from arkasr.data.corpora.grammar import Grammar

ENGLISH = Grammar(
    {
        "SENTENCE": ["MEETING", "TRADE", "TRADE", "NEED", "JOURNEY", "JOURNEY", "APPOINTMENT", "ORDER"],
        "MEETING": [
            "PERSON met OBJECT PAST",
            "PERSON met OBJECT at CLOCK",
            "PERSON met OBJECT at PLACE",
            "we met OBJECT in CITY",
        ],
        "TRADE": [
            "PERSON bought GOODS PAST",
            "PERSON bought GOODS for PRICE",
            "PERSON sold THINGS for PRICE",
            "they sold THINGS at PLACE",
            "we sold THINGS in CITY",
        ],
        "NEED": ["PERSON needs GOODS FUTURE", "PERSON wants GOODS", "MANY need GOODS FUTURE", "MANY want GOODS"],
        "JOURNEY": [
            "the VEHICLE to CITY leaves at CLOCK",
            "VEHICLE NUMBER goes to PLACE",
            "PERSON goes to CITY FUTURE",
            "PERSON goes to PLACE at CLOCK",
            "MANY go to CITY FUTURE",
            "MANY go to PLACE at CLOCK",
        ],
        "APPOINTMENT": [
            "PERSON leaves on DAY DATE",
            "PERSON leaves CITY on DATE",
            "MANY leave CITY on DATE",
            "it is CLOCK in CITY",
            "it is DAY DATE",
        ],
        "ORDER": ["GOODS and GOODS please", "we want GOODS please", "NUMBER tickets to CITY please"],
        "PERSON": ["SUBJECT", "SUBJECT", "the doctor"],
        "MANY": ["we", "they", "SUBJECT and OBJECT"],
        "SUBJECT": ["mary", "john", "anna"],
        "OBJECT": ["peter", "lucy"],
        "CITY": ["london", "paris", "boston"],
        "PLACE": ["the station", "the market", "the school"],
        "VEHICLE": ["train", "bus"],
        "GOODS": ["GOODS_ONE", "GOODS_MANY"],
        "GOODS_ONE": ["one book", "one COLOUR book", "one cup of DRINK", "one ticket"],
        "GOODS_MANY": ["NUMBER THING_MANY", "NUMBER COLOUR THING_MANY", "NUMBER cups of DRINK"],
        "THINGS": ["the COLOUR books", "the tickets", "NUMBER COLOUR apples", "NUMBER books"],
        "THING_MANY": ["books", "apples", "tickets"],
        "COLOUR": ["red", "green"],
        "DRINK": ["tea", "coffee"],
        "PAST": ["yesterday", "on DAY", "in MONTH"],
        "FUTURE": ["today", "tomorrow", "on DAY"],
        "DAY": ["monday", "tuesday", "thursday", "friday"],
        "MONTH": ["march", "may", "june", "july"],
        "DATE": ["MONTH DAY_OF_MONTH"],
        "DAY_OF_MONTH": ["UNIT", "ten", "TEEN", "twenty", "twenty UNIT", "thirty"],
        "CLOCK": ["HOUR", "HOUR MINUTE", "HOUR MINUTE", "half past HOUR"],
        "HOUR": ["UNIT", "ten"],
        "MINUTE": ["ten", "fifteen", "twenty", "thirty", "forty", "fifty"],
        "PRICE": ["NUMBER dollars"],
        "NUMBER": ["SMALL", "SMALL", "TEEN", "TENS", "TENS UNIT"],
        "SMALL": ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
        "UNIT": ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
        "TEEN": ["thirteen", "fourteen", "fifteen"],
        "TENS": ["twenty", "thirty", "forty", "fifty"],
    },
    max_characters=42,
)
