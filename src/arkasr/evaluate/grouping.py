"""Counts of utterances added up to what is drawn at random: utterances, or speakers."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def sums_by_group(
    values: NDArray[Any], groups: Sequence[Hashable] | None, strata: Sequence[Hashable] | None
) -> list[NDArray[Any]]:
    """Sums within each group, `[G, K]` for each stratum.

    Groups cut across strata: who speaks in two test sets is still one voice, drawn once. With groups there are thus no
    strata.

    Args:
        values: `[K, U]`.
        groups: `[U]`, what is drawn as a whole; None = each utterance by itself.
        strata: `[U]`, parts that keep their size; None, or groups given = one part.
    """
    if groups is not None:
        places = _numbered(groups)
        sums = np.zeros((places.max() + 1, len(values)))
        np.add.at(sums, places, values.T)
        return [sums]
    if strata is None:
        return [values.T]
    places = _numbered(strata)
    return [values.T[places == part] for part in range(places.max() + 1)]


def are_drawn(sums: Sequence[NDArray[Any]]) -> bool:
    """Whether chance can choose at all: some stratum `[G, K]` has two groups or more."""
    return any(len(part) > 1 for part in sums)


def _numbered(labels: Sequence[Hashable]) -> NDArray[np.int64]:
    """Labels as numbers from 0, in the order of their first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels])
