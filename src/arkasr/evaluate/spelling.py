"""One spelling for what a native reader calls the same word: other marks, forms and encodings of the same letters."""

import re
import unicodedata

APOSTROPHES = "’‘‛ʼʻ´`՚ꞌ"
# Invisible: no Unicode format characters, but marks that only change how the character before them is drawn.
DRAWING_MARKS = re.compile("[\u034f\u20e3\ufe00-\ufe0f\U000e0100-\U000e01ef]")
# Vowel signs that Arabic and Hebrew texts for adults leave out, and the stroke that lengthens an Arabic word.
OPTIONAL_SIGNS = re.compile("[\u0640\u064b-\u0652\u0670\u06d6-\u06dc\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]")
LETTERS = str.maketrans(
    {
        "ё": "е",  # Russian: the dots are optional
        "ş": "ș",  # Romanian: the cedilla is an old encoding of the comma
        "ţ": "ț",
        "ي": "ی",  # Persian: typed on an Arabic keyboard
        "ك": "ک",
        "ٱ": "ا",
    }
)
# Vietnamese: the tone is on the first or the second vowel of oa, oe and uy (hòa, hoà).
OLD_TONES = ["òa", "óa", "ỏa", "õa", "ọa", "òe", "óe", "ỏe", "õe", "ọe", "ùy", "úy", "ủy", "ũy", "ụy"]
NEW_TONES = ["oà", "oá", "oả", "oã", "oạ", "oè", "oé", "oẻ", "oẽ", "oẹ", "uỳ", "uý", "uỷ", "uỹ", "uỵ"]
TONE_PLACES = re.compile(rf"(?:{'|'.join(NEW_TONES)})(?!\w)")


def visible(text: str) -> str:
    """A text without invisible characters, and with one kind of apostrophe."""
    text = text.translate(dict.fromkeys(map(ord, APOSTROPHES), "'"))
    return DRAWING_MARKS.sub("", "".join(character for character in text if unicodedata.category(character) != "Cf"))


def one_spelling(text: str) -> str:
    """A text in lower case and NFKC, each word in one of its spellings, all digits Arabic."""
    text = unicodedata.normalize("NFKC", visible(text))
    text = text.lower().replace("i\u0307", "i").translate(LETTERS)  # İ in lower case is i with a dot
    text = TONE_PLACES.sub(lambda found: OLD_TONES[NEW_TONES.index(found[0])], OPTIONAL_SIGNS.sub("", text))
    return "".join(str(unicodedata.decimal(character, character)) for character in text)
