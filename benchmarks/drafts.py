"""Drafts with a known share of mistakes."""

import random
from collections.abc import Sequence
from typing import TypeVar

Unit = TypeVar("Unit")


def corrupted(said: Sequence[Unit], share: float, others: Sequence[Unit], draw: random.Random) -> list[Unit]:
    """About so many words or tokens replaced (70%), left out, or followed by another (15% each)."""
    draft: list[Unit] = []
    for unit in said:
        chance = draw.random() / share if share else 2.0
        if chance >= 0.85:
            draft.append(unit)
        if chance < 0.7 or 0.85 <= chance < 1:
            draft.append(draw.choice(others))
    return draft
