"""Drafts with a given error rate."""

import random
from collections.abc import Sequence
from typing import TypeVar

Unit = TypeVar("Unit")


def corrupted(
    transcript: Sequence[Unit], error_rate: float, vocabulary: Sequence[Unit], generator: random.Random
) -> list[Unit]:
    """A copy with errors in about `error_rate` of the words or tokens.

    70% of the errors are substitutions, 15% deletions and 15% insertions.
    """
    draft: list[Unit] = []
    for unit in transcript:
        chance = generator.random() / error_rate if error_rate else 2.0
        if chance >= 0.85:
            draft.append(unit)
        if chance < 0.7 or 0.85 <= chance < 1:
            draft.append(generator.choice(vocabulary))
    return draft
