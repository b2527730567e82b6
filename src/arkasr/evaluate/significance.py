"""How sure a rate or a difference is: bootstrap intervals and a paired permutation test over utterances or speakers.

Takes counts, knows no text. What it does not cover is in docs/evaluation.md: the luck of a training run, and many
comparisons at once.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
# Samples drawn at once: bounds memory at a few megabytes for thousands of utterances.
CHUNK = 500


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same utterances.

    Attributes:
        difference: rate of a minus rate of b; below zero, a is better.
        ci95: bootstrap interval of the difference.
        p: two-sided.
        test: how `p` and `ci95` were found.
    """

    difference: float
    ci95: tuple[float, float]
    p: float
    test: str


def bootstrap_interval(
    errors: ArrayLike,
    reference_tokens: ArrayLike,
    *,
    groups: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
    samples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """95% percentile interval of the pooled rate, `sum(errors) / sum(reference_tokens)`.

    Args:
        errors: `[U]`, or `[seeds, U]`: the same utterances under several training seeds, drawn together.
        reference_tokens: `[U]`.
        groups: `[U]`, what is drawn as a whole, such as speakers; None = each utterance by itself.
        strata: `[U]`, parts that keep their size in every sample, such as test sets; None = one part.
        samples: bootstrap samples.
        seed: of the draws.
    """
    mean_errors = np.atleast_2d(np.asarray(errors, float)).mean(0)
    sums = _group_sums([mean_errors, np.asarray(reference_tokens, float)], groups, strata)
    rates = [drawn[:, 0] / np.maximum(drawn[:, 1], 1e-12) for drawn in _resample(sums, samples, seed)]
    return _interval(np.concatenate(rates))


def paired_comparison(
    errors_a: ArrayLike,
    errors_b: ArrayLike,
    reference_tokens: ArrayLike,
    *,
    groups: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
    samples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two systems on the same utterances.

    `p` is of the paired permutation test: under the null hypothesis the two outputs of an utterance (or of a speaker)
    could as well be exchanged, so the signs of the differences are drawn at random; `(k + 1) / (samples + 1)`.

    Args:
        errors_a: `[U]` or `[seeds, U]`; seeds are averaged per utterance first, so that the same utterance decoded by
            several seeds is not taken for several independent ones.
        errors_b: the same for the other system; may have another number of seeds.
        reference_tokens: `[U]`.
        groups: as for `bootstrap_interval`.
        strata: as for `bootstrap_interval`.
        samples: permutations, and bootstrap samples.
        seed: of the draws.
    """
    difference = np.atleast_2d(np.asarray(errors_a, float)).mean(0) - np.atleast_2d(np.asarray(errors_b, float)).mean(0)
    tokens = np.asarray(reference_tokens, float)
    sums = _group_sums([difference, tokens], groups, strata)
    ci95 = _interval(np.concatenate([d[:, 0] / np.maximum(d[:, 1], 1e-12) for d in _resample(sums, samples, seed)]))
    differences = np.concatenate([part[:, 0] for part in sums])
    observed = abs(differences.sum())
    generator = np.random.default_rng(seed)
    extreme = 0
    for count in _chunks(samples):
        signs = generator.integers(0, 2, (count, len(differences))) * 2 - 1
        extreme += int((np.abs(signs @ differences) >= observed - 1e-9).sum())
    over = "utterances" if groups is None else "speakers"
    return Comparison(
        difference=float(difference.sum() / max(tokens.sum(), 1e-12)),
        ci95=ci95,
        p=(extreme + 1) / (samples + 1),
        test=f"paired permutation test over {over}, {samples} permutations; bootstrap interval",
    )


def _group_sums(
    values: list[NDArray[Any]], groups: Sequence[Hashable] | None, strata: Sequence[Hashable] | None
) -> list[NDArray[Any]]:
    """For each stratum the sums of `values` within each group, `[G, len(values)]`."""
    count = len(values[0])
    stratum_of = strata if strata is not None else [None] * count
    group_of = groups if groups is not None else range(count)
    sums: dict[Hashable, dict[Hashable, NDArray[Any]]] = {}
    for place in range(count):
        within = sums.setdefault(stratum_of[place], {})
        row = within.setdefault(group_of[place], np.zeros(len(values)))
        row += [value[place] for value in values]
    return [np.stack(list(within.values())) for within in sums.values()]


def _resample(sums: list[NDArray[Any]], samples: int, seed: int) -> list[NDArray[Any]]:
    """Sums over groups drawn with replacement within each stratum, in chunks `[samples, values]`."""
    generator = np.random.default_rng(seed)
    drawn = []
    for count in _chunks(samples):
        total = np.zeros((count, sums[0].shape[1]))
        for part in sums:
            total += part[generator.integers(0, len(part), (count, len(part)))].sum(1)
        drawn.append(total)
    return drawn


def _chunks(samples: int) -> list[int]:
    return [CHUNK] * (samples // CHUNK) + ([samples % CHUNK] if samples % CHUNK else [])


def _interval(values: NDArray[Any]) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
