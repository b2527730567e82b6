"""The words of a text, for word times."""

from typing import NamedTuple

from arkasr.recognizers.loops import words_of


class WordSpan(NamedTuple):
    """A word without the punctuation around it, and the index of its first character in the text."""

    text: str
    begin: int


def word_spans(text: str) -> list[WordSpan]:
    """The words of a text that have a letter or a digit; each character of a script without spaces is one."""
    return [_bare(word, begin) for word, begin in words_of(text) if any(map(str.isalnum, word))]


def _bare(word: str, begin: int) -> WordSpan:
    inside = [index for index, character in enumerate(word) if character.isalnum()]
    return WordSpan(word[inside[0] : inside[-1] + 1], begin + inside[0])
