"""Detection of decoding loops: words or letters that repeat in direct succession, in any script."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

LOOP_REPEATS = 4  # the same words this many times in a row are a loop, not speech
LONGEST_LOOP_WORDS = 32
REPEATED_LETTERS = re.compile(r"([^\W\d_]{1,16}?)\1{7,}")  # eight times in a row
# Scripts without blanks between words.
UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


def is_looping(text: str) -> bool:
    """Whether a text contains a loop."""
    return loop_start(text) is not None


def loop_start(text: str, *, cut_off: bool = False) -> int | None:
    """Index of the character where the first loop begins its second repetition; None = no loop.

    A loop is up to 32 words repeated four times in a row, or letters repeated eight times within a word. A character
    of a script without blanks counts as a word.

    Args:
        text: the transcript.
        cut_off: whether the cap on tokens ended the text. A phrase of several words is then a loop from three
            repetitions on, if it reaches the end of the text.
    """
    letters = REPEATED_LETTERS.search(text)
    starts = [letters.end(1)] if letters else []
    words_with_index = list(words_of(text))
    words = [word for word, _ in words_with_index]
    for size in range(1, LONGEST_LOOP_WORDS + 1):
        if (second := _second_repetition(words, size, cut_off)) is not None:
            starts.append(words_with_index[second][1])
    return min(starts, default=None)


def is_unspaced(character: str) -> bool:
    """Whether a character belongs to a script without blanks between words."""
    return bool(character) and unicodedata.name(character, "").startswith(UNSPACED_SCRIPTS)


def _second_repetition(words: Sequence[str], size: int, cut_off: bool) -> int | None:
    """Index of the word where the second repetition of a loop of `size` words begins; None = no such loop."""
    repeated = 0
    for index in range(size, len(words)):
        repeated = repeated + 1 if words[index] == words[index - size] else 0
        if repeated == size * (LOOP_REPEATS - 1):
            return index - repeated + 1
        # The last word is left out, because it may be cut off itself.
        if cut_off and index == len(words) - 2 and repeated >= max(2 * size, LOOP_REPEATS - 1):
            return index - repeated + 1
    return None


def words_of(text: str) -> Iterator[tuple[str, int]]:
    """The words of a text, each with the index of its first character."""
    for word in re.finditer(r"\S+", text):
        first = word.start()
        for index in range(word.start(), word.end()):
            if is_unspaced(text[index]):
                if first < index:
                    yield text[first:index], first
                yield text[index], index
                first = index + 1
        if first < word.end():
            yield text[first : word.end()], first
