"""Counts of utterances, summed over the units that are resampled: utterances or speakers."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def sums_by_group(
    values: NDArray[Any], groups: Sequence[Hashable] | None, strata: Sequence[Hashable] | None
) -> list[NDArray[Any]]:
    """Sums within each group, `[G, K]` for each stratum.

    With groups there is one stratum only: a speaker in two test sets is one person and is resampled once.

    Args:
        values: `[K, U]`.
        groups: `[U]`, utterances that are resampled together; None = each utterance is its own group.
        strata: `[U]`, parts whose size is fixed; None = one part. Ignored if there are groups.
    """
    if groups is not None:
        group_ids = _numbered(groups)
        sums = np.zeros((group_ids.max() + 1, len(values)))
        np.add.at(sums, group_ids, values.T)
        return [sums]
    if strata is None:
        return [values.T]
    stratum_ids = _numbered(strata)
    return [values.T[stratum_ids == number] for number in range(stratum_ids.max() + 1)]


def can_resample(strata_sums: Sequence[NDArray[Any]]) -> bool:
    """Whether resampling can change anything: some stratum `[G, K]` has two groups or more."""
    return any(len(sums) > 1 for sums in strata_sums)


def _numbered(labels: Sequence[Hashable]) -> NDArray[np.int64]:
    """Labels as numbers from 0, in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels])
