"""The words of a text, for word times."""

import re
from typing import NamedTuple

from arkasr.recognizers.loops import is_unspaced

# Letters and digits, with marks inside as in "don't" or "e-mail".
WORD = re.compile(r"\w+(?:[^\w\s]+\w+)*")


class WordSpan(NamedTuple):
    """A word without the punctuation around it, and the index of its first character in the text."""

    text: str
    begin: int


def word_spans(text: str) -> list[WordSpan]:
    """The words of a text; each character of a script without spaces is one."""
    spans = []
    for found in WORD.finditer(text):
        first = found.start()
        for index in range(found.start(), found.end()):
            if not is_unspaced(text[index]):
                continue
            spans += _span(text, first, index)
            spans += _span(text, index, index + 1)
            first = index + 1
        spans += _span(text, first, found.end())
    return spans


def _span(text: str, begin: int, end: int) -> list[WordSpan]:
    """One span, or none if there is no letter or digit."""
    while begin < end and not text[begin].isalnum():
        begin += 1
    while begin < end and not text[end - 1].isalnum():
        end -= 1
    return [WordSpan(text[begin:end], begin)] if begin < end else []
