"""Signs that a text was written by a decoding loop, in any script. The text itself is never changed."""

import re
import unicodedata

LOOP_REPEATS = 4  # the same words so many times in a row are a decoding loop, not speech
LONGEST_LOOP_UNIT = 8
LETTERS_RUN = re.compile(r"([^\W\d_]{1,16}?)\1{7,}")  # within a word, the same letters eight times in a row
# Scripts written without blanks between words.
UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


def is_looping(text: str) -> bool:
    """Whether up to eight words stand four times in a row, or the same letters eight times within a word.

    A character of a script without blanks counts as a word.
    """
    units = _units(text)
    return bool(LETTERS_RUN.search(text)) or any(
        units[start : start + size] * LOOP_REPEATS == units[start : start + size * LOOP_REPEATS]
        for size in range(1, LONGEST_LOOP_UNIT + 1)
        for start in range(len(units) - size * LOOP_REPEATS + 1)
    )


def is_unspaced(character: str) -> bool:
    """Whether a character belongs to a script that is written without blanks."""
    return unicodedata.name(character, "").startswith(UNSPACED_SCRIPTS)


def _units(text: str) -> list[str]:
    units = []
    for word in text.split():
        rest = ""
        for character in word:
            if is_unspaced(character):
                units += [rest, character] if rest else [character]
                rest = ""
            else:
                rest += character
        if rest:
            units.append(rest)
    return units
