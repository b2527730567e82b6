"""How sure the model is of each word. In: tokens, their log-probabilities, the text. Out: a probability per word."""

import codecs
import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from arkasr.transcribe.words import WordSpan, word_spans


def word_probabilities(
    text: str, pieces: Sequence[bytes], scores: Sequence[float]
) -> list[tuple[WordSpan, float | None]]:
    """The words of a text and their probabilities: the product over all tokens that write a part of the word.

    Args:
        text: cleaned; a part of what the tokens write.
        pieces: the bytes of each token `[n]`.
        scores: log-probability of each token `[n]`.

    Returns:
        For each word of `word_spans`; the probability is None if clean-up changed the text within.
    """
    begins, ends, written = _characters_of(pieces)
    offset = written.find(text)
    spans = word_spans(text)
    if offset < 0:
        return [(span, None) for span in spans]
    probabilities: list[float | None] = []
    for span in spans:
        first = bisect_right(ends, offset + span.begin)
        after_last = bisect_left(begins, offset + span.begin + len(span.text))
        probabilities.append(math.exp(sum(scores[first:after_last])))
    return list(zip(spans, probabilities, strict=True))


def _characters_of(pieces: Sequence[bytes]) -> tuple[list[int], list[int], str]:
    """The first character of each token and the one after its last, and the text of all.

    A character of several tokens is in each of them.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    begins, ends, parts, length = [], [], [], 0
    for piece in pieces:
        begins.append(length)
        parts.append(decoder.decode(piece))
        length += len(parts[-1])
        unfinished, _ = decoder.getstate()
        ends.append(length + bool(unfinished))
    return begins, ends, "".join(parts) + decoder.decode(b"", final=True)
