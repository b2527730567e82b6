"""Confidence intervals and significance tests of error rates: one model by resampling, several seeds by t test.

In: error counts. Not covered (docs/evaluation.md): multiple comparisons, and the variance of training if there is one
seed.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from arkasr.evaluate.grouping import can_resample, sums_by_group
from arkasr.evaluate.over_seeds import estimate_over_seeds

CONFIDENCE = 0.95
CHUNK = 500  # samples computed at once; they take a few megabytes for thousands of utterances


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same utterances.

    Attributes:
        difference: rate of a minus rate of b; below zero, a is better.
        ci95: interval of the difference; None if it cannot be computed, for example with a single speaker.
        p: two-sided p-value; None if there is no interval.
        test: how `p` and `ci95` were computed, or why they were not.
        seeds: numbers of training seeds of a and b.
        df: degrees of freedom of the t test; None if there was none.
    """

    difference: float
    ci95: tuple[float, float] | None
    p: float | None
    test: str
    seeds: tuple[int, int]
    df: float | None = None

    def speaks_of(self, a: str, b: str, ran_once: Sequence[str] = ()) -> str:
        """What `p` and `ci95` are valid for: two models, two recipes with several seeds, or a recipe and a model.

        Args:
            a: name of the first system.
            b: name of the second system.
            ran_once: stages that all seeds share, such as the teacher; their variance is not measured.
        """
        if self.seeds == (1, 1):
            return "these two models, not the recipes that made them (one training seed)"
        if 1 in self.seeds:
            recipe, model = (a, b) if self.seeds[1] == 1 else (b, a)
            condition = shared_stages_phrase(ran_once)
            return f"the recipe of {recipe}{condition} ({max(self.seeds)} training seeds) and the one model {model}"
        numbers = " and ".join(str(seeds) for seeds in dict.fromkeys(self.seeds))
        return f"the two recipes{shared_stages_phrase(ran_once)} ({numbers} training seeds)"


@dataclass(frozen=True)
class SeedMean:
    """A system's rate over its training seeds.

    Attributes:
        rate: mean over seeds of the pooled rate.
        deviation: sample standard deviation of the pooled rate over seeds.
        ci95: interval of the recipe's rate, over seeds and utterances; None if it cannot be computed.
    """

    rate: float
    deviation: float
    ci95: tuple[float, float] | None


def shared_stages_phrase(stages: Sequence[str]) -> str:
    """A phrase that names the stages that ran once for all seeds; empty if there are none."""
    return f" with this one run of {' and '.join(stages)}" if stages else ""


def bootstrap_interval(
    errors: ArrayLike,
    reference_tokens: ArrayLike,
    *,
    groups: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
    samples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """95% percentile bootstrap interval of one model's pooled rate, `sum(errors) / sum(reference_tokens)`.

    Samples without any reference token have no rate and are left out.

    Args:
        errors: `[U]`.
        reference_tokens: `[U]`.
        groups: `[U]`, utterances that are resampled together, such as those of a speaker; None = each by itself.
        strata: `[U]`, parts whose size is the same in every sample, such as test sets; None = one part. Ignored if
            there are groups, because a speaker may be in several parts.
        samples: number of bootstrap samples.
        seed: of the random generator.

    Returns:
        None if there is no reference token, or if no stratum has two groups.
    """
    counts = np.stack([np.asarray(errors, float), np.asarray(reference_tokens, float)])
    if not counts[1].any():
        return None
    strata_sums = sums_by_group(counts, groups, strata)
    return _percentile_interval(strata_sums, samples, seed) if can_resample(strata_sums) else None


def mean_over_seeds(
    errors: ArrayLike,
    reference_tokens: ArrayLike,
    *,
    groups: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
) -> SeedMean:
    """A system's mean rate over its training seeds, with a t interval over seeds and utterances.

    Args:
        errors: `[seeds, U]`, two seeds or more.
        reference_tokens: `[U]`, not all 0.
        groups: as in `bootstrap_interval`.
        strata: as in `bootstrap_interval`.
    """
    by_seed, tokens = np.asarray(errors, float), np.asarray(reference_tokens, float)
    estimate = estimate_over_seeds([by_seed], tokens, groups, strata)
    interval = estimate.interval(CONFIDENCE)
    deviation = float((by_seed.sum(1) / tokens.sum()).std(ddof=1))
    return SeedMean(estimate.value, deviation, (max(interval[0], 0.0), interval[1]) if interval else None)


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

    Two single models get a paired permutation test. Under the null hypothesis the two outputs of an utterance (or of a
    speaker) are exchangeable, so the differences get random signs, and p is `(k + 1) / (samples + 1)` if k samples
    are at least as extreme. Several seeds get the t test of `over_seeds.py`. There is neither p-value nor interval if
    no stratum has two groups. With several seeds, there is also none if fewer than two groups have reference tokens, or
    if the variance is 0 and the difference is not.

    Args:
        errors_a: `[U]`, or `[seeds, U]`.
        errors_b: the same for the other system. With equal numbers of seeds, rows are paired. A single row is paired
            with every row of the other system.
        reference_tokens: `[U]`, not all 0.
        groups: as in `bootstrap_interval`.
        strata: as in `bootstrap_interval`.
        samples: number of permutations, and of bootstrap samples.
        seed: of the random generator.
    """
    a, b = np.atleast_2d(np.asarray(errors_a, float)), np.atleast_2d(np.asarray(errors_b, float))
    tokens = np.asarray(reference_tokens, float)
    seeds = len(a), len(b)
    unit = "utterances" if groups is None else "speakers"
    where = " in each set" if groups is None else ""
    no_test = f"no test: fewer than two {unit}{where}, or no variance"
    if seeds == (1, 1):
        strata_sums = sums_by_group(np.stack([(a - b)[0], tokens]), groups, strata)
        difference = float((a - b).sum() / tokens.sum())
        if not can_resample(strata_sums):
            return Comparison(difference, None, None, no_test, seeds)
        return Comparison(
            difference,
            ci95=_percentile_interval(strata_sums, samples, seed),
            p=_permutation_p(np.concatenate([sums[:, 0] for sums in strata_sums]), samples, seed),
            test=f"paired permutation test over {unit}, {samples} permutations; bootstrap interval",
            seeds=seeds,
        )
    is_paired = len(a) == len(b) or 1 in seeds
    estimate = estimate_over_seeds([a - b] if is_paired else [a, -b], tokens, groups, strata)
    test = no_test if estimate.df is None else f"t test and t interval over training seeds and {unit}"
    return Comparison(estimate.value, estimate.interval(CONFIDENCE), estimate.p, test, seeds, estimate.df)


def _permutation_p(differences: NDArray[Any], samples: int, seed: int) -> float:
    observed = abs(differences.sum())
    generator = np.random.default_rng(seed)
    extreme = 0
    for count in _chunks(samples):
        signs = generator.integers(0, 2, (count, len(differences))) * 2 - 1
        extreme += int((np.abs(signs @ differences) >= observed - 1e-9).sum())
    return (extreme + 1) / (samples + 1)


def _percentile_interval(strata_sums: list[NDArray[Any]], samples: int, seed: int) -> tuple[float, float]:
    """Interval of the ratio of the first column to the second; `strata_sums` is `[groups, 2]` for each stratum."""
    totals = _resample(strata_sums, samples, seed)
    totals = totals[totals[:, 1] > 0]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(totals[:, 0] / totals[:, 1], [tail, 1 - tail])
    return float(low), float(high)


def _resample(strata_sums: list[NDArray[Any]], samples: int, seed: int) -> NDArray[Any]:
    """Totals `[samples, columns]` of groups drawn with replacement within each stratum."""
    generator = np.random.default_rng(seed)
    chunks = []
    for count in _chunks(samples):
        totals = np.zeros((count, strata_sums[0].shape[1]))
        for sums in strata_sums:
            totals += sums[generator.integers(0, len(sums), (count, len(sums)))].sum(1)
        chunks.append(totals)
    return np.concatenate(chunks)


def _chunks(samples: int) -> list[int]:
    return [CHUNK] * (samples // CHUNK) + ([samples % CHUNK] if samples % CHUNK else [])
