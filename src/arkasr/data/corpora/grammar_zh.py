"""Sentences of the built-in Mandarin speech: meetings, trade, journeys, dates, times, prices.

About eighty characters; numbers are written as they are spoken. Nouns take their own measure words and verbs their
own kinds of object, so language knowledge helps recognition. Many characters differ in one sound or tone (四 and 十,
买 and 卖, 七 and 一).
"""

from arkasr.data.corpora.grammar import Grammar

MANDARIN = Grammar(
    {
        "SENTENCE": ["MEETING", "TRADE", "TRADE", "NEED", "JOURNEY", "JOURNEY", "APPOINTMENT", "ORDER"],
        "MEETING": ["PERSON PAST 见 了 OBJECT", "PERSON 在 PLACE 见 了 OBJECT", "OBJECT 和 PERSON 在 PLACE"],
        "TRADE": [
            "PERSON PAST 买 了 GOODS",
            "PERSON 在 PLACE 买 了 GOODS",
            "PERSON 卖 了 GOODS",
            "他们 PAST 卖 了 THINGS",
            "PERSON 给 OBJECT 买 了 GOODS",
            "GOODS NUMBER 块 钱",
        ],
        "NEED": [
            "PERSON 要 喝 DRINK",
            "PERSON FUTURE 想 见 OBJECT",
            "PERSON 不 想 喝 DRINK",
            "MANY FUTURE 想 买 GOODS",
        ],
        "JOURNEY": [
            "PERSON FUTURE 坐 VEHICLE 去 CITY",
            "PERSON 坐 VEHICLE 去 PLACE",
            "去 CITY 的 VEHICLE CLOCK 开",
            "MANY CLOCK 到 PLACE",
            "PERSON FUTURE 从 CITY 回 家",
            "NUMBER 路 汽车 去 PLACE",
        ],
        "APPOINTMENT": [
            "今天 是 DATE 星期 DAY",
            "PERSON DATE 回 家",
            "PERSON DATE 去 CITY",
            "MANY 星期 DAY CLOCK 见 OBJECT",
            "FUTURE CLOCK 到 PLACE",
        ],
        "ORDER": ["请 给 我 GOODS", "我们 要 GOODS 和 GOODS", "我 要 COUNT 张 去 CITY 的 票"],
        "PERSON": ["我", "他", "SUBJECT", "SUBJECT", "SUBJECT"],
        "MANY": ["我们", "他们", "SUBJECT 和 OBJECT"],
        "SUBJECT": ["小王", "小高", "老师", "妈妈"],
        "OBJECT": ["小李", "老马", "医生"],
        "CITY": ["北京", "上海"],
        "PLACE": ["学校", "火车站", "医院"],
        "VEHICLE": ["火车", "汽车"],
        "GOODS": ["COUNT 本 书", "COUNT 本 新 书", "COUNT 张 票", "COUNT 个 苹果", "COUNT 杯 DRINK"],
        "THINGS": ["新 书", "红 苹果", "火车 票"],
        "DRINK": ["红 茶", "绿 茶", "牛奶"],
        "PAST": ["昨天", "星期 DAY", "MONTH 月"],
        "FUTURE": ["今天", "明天", "星期 DAY"],
        "DAY": ["一", "二", "三", "四", "五", "六", "日"],
        "DATE": ["MONTH 月 DAY_OF_MONTH 号"],
        "MONTH": ["UNIT", "十"],
        "DAY_OF_MONTH": ["UNIT", "十", "十 UNIT", "二十", "二十 UNIT", "三十"],
        "CLOCK": ["HOUR 点", "HOUR 点 半", "HOUR 点 MINUTE 分"],
        "HOUR": ["两", "三", "四", "五", "六", "七", "八", "九", "十"],
        "MINUTE": ["十", "二十", "四十", "五十", "十五"],
        "NUMBER": ["SMALL", "十 UNIT", "TENS", "TENS UNIT"],
        "COUNT": ["一", "两", "三", "四", "五", "六", "七", "八", "九", "十", "十 UNIT", "TENS"],
        "SMALL": ["三", "四", "五", "六", "七", "八", "九", "十"],
        "TENS": ["二十", "三十", "四十", "五十"],
        "UNIT": ["一", "二", "三", "四", "五", "六", "七", "八", "九"],
    },
    max_characters=11,
    separator="",
)
