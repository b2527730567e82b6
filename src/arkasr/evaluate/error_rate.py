"""Errors between two normalised texts, aligned by jiwer. Rates of test sets are computed in `scoring.py`."""

from dataclasses import dataclass
from typing import Literal

import jiwer

from arkasr.evaluate.normalize import Unit


@dataclass(frozen=True)
class ErrorCount:
    """Edits that turn a reference into a hypothesis."""

    substitutions: int
    deletions: int
    insertions: int
    reference_tokens: int

    @property
    def errors(self) -> int:
        """All edits."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """Errors per reference token; None for an empty reference."""
        return self.errors / self.reference_tokens if self.reference_tokens else None


@dataclass(frozen=True)
class AlignedToken:
    """One column of an alignment; the missing side is None."""

    kind: Literal["equal", "substitute", "delete", "insert"]
    reference: str | None
    hypothesis: str | None


def tokens_of(text: str, unit: Unit) -> list[str]:
    """The words, or the characters without spaces, of a text."""
    return text.split() if unit == "word" else list("".join(text.split()))


def count_errors(reference: str, hypothesis: str, unit: Unit) -> ErrorCount:
    """Count edits; with an empty reference every token of the hypothesis is an insertion."""
    kinds = [token.kind for token in align_tokens(reference, hypothesis, unit)]
    inserted = kinds.count("insert")
    return ErrorCount(kinds.count("substitute"), kinds.count("delete"), inserted, len(kinds) - inserted)


def align_tokens(reference: str, hypothesis: str, unit: Unit) -> list[AlignedToken]:
    """An alignment with the fewest edits, column by column."""
    expected, actual = tokens_of(reference, unit), tokens_of(hypothesis, unit)
    if not expected or not actual:
        deleted = [AlignedToken("delete", token, None) for token in expected]
        return deleted + [AlignedToken("insert", None, token) for token in actual]
    # Tokens are joined by one space, so jiwer's word alignment also aligns characters.
    chunks = jiwer.process_words(" ".join(expected), " ".join(actual)).alignments[0]
    aligned: list[AlignedToken] = []
    for chunk in chunks:
        left = expected[chunk.ref_start_idx : chunk.ref_end_idx]
        right = actual[chunk.hyp_start_idx : chunk.hyp_end_idx]
        width = max(len(left), len(right))
        pairs = zip(left + [None] * (width - len(left)), right + [None] * (width - len(right)), strict=True)
        aligned.extend(AlignedToken(chunk.type, *pair) for pair in pairs)
    return aligned
