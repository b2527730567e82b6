"""How sure the model is of each word. In: tokens, their log-probabilities, the text. Out: a probability per word."""

import math
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
    written = b"".join(pieces)
    offset = written.decode(errors="replace").find(text)
    spans = word_spans(text)
    if offset < 0:
        return [(span, None) for span in spans]
    tokens, length = [], 0
    for piece, score in zip(pieces, scores, strict=True):
        # A character that is not complete yet counts, so that all its tokens do.
        begin = len(written[:length].decode(errors="ignore"))
        length += len(piece)
        tokens.append((begin - offset, len(written[:length].decode(errors="replace")) - offset, score))
    return [(span, _product(span, tokens)) for span in spans]


def _product(span: WordSpan, tokens: Sequence[tuple[int, int, float]]) -> float:
    end = span.begin + len(span.text)
    return math.exp(sum(score for first, last, score in tokens if first < end and last > span.begin))
