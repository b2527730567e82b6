"""Signs that a text was written by a decoding loop, in any script. The text itself is never changed."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

LOOP_REPEATS = 4  # the same words so many times in a row are a decoding loop, not speech
LONGEST_LOOP_UNIT = 32
LETTERS_RUN = re.compile(r"([^\W\d_]{1,16}?)\1{7,}")  # within a word, the same letters eight times in a row
# Scripts written without blanks between words.
UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


def is_looping(text: str) -> bool:
    """Whether a loop starts anywhere in a text."""
    return loop_start(text) is not None


def loop_start(text: str, *, cut_off: bool = False) -> int | None:
    """The place of the character at which the first loop says its words for the second time; None = no loop.

    A loop is up to 32 words that stand four times in a row, or the same letters eight times within a word. A character
    of a script without blanks counts as a word.

    Args:
        text: as it was written.
        cut_off: whether more would have been written. A phrase of several words that runs on to the end is then a loop
            when it stands there three times.
    """
    letters = LETTERS_RUN.search(text)
    starts = [letters.end(1)] if letters else []
    units = list(_units(text))
    words = [word for word, _ in units]
    for size in range(1, LONGEST_LOOP_UNIT + 1):
        if (second := _second_saying(words, size, cut_off)) is not None:
            starts.append(units[second][1])
    return min(starts, default=None)


def is_unspaced(character: str) -> bool:
    """Whether a character belongs to a script that is written without blanks."""
    return unicodedata.name(character, "").startswith(UNSPACED_SCRIPTS)


def _second_saying(words: Sequence[str], size: int, cut_off: bool) -> int | None:
    """The place where `size` words that loop stand for the second time."""
    repeated = 0
    for place in range(size, len(words)):
        repeated = repeated + 1 if words[place] == words[place - size] else 0
        if repeated == size * (LOOP_REPEATS - 1):
            return place - repeated + 1
        # The last word may be cut off, too.
        if cut_off and place == len(words) - 2 and repeated >= max(2 * size, LOOP_REPEATS - 1):
            return place - repeated + 1
    return None


def _units(text: str) -> Iterator[tuple[str, int]]:
    """The words of a text, each with the place of its first character."""
    for word in re.finditer(r"\S+", text):
        first = word.start()
        for place in range(word.start(), word.end()):
            if is_unspaced(text[place]):
                if first < place:
                    yield text[first:place], first
                yield text[place], place
                first = place + 1
        if first < word.end():
            yield text[first : word.end()], first
