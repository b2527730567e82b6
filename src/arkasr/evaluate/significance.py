"""How sure a rate or a difference is: of one model by resampling, over several training seeds by a t interval.

Takes counts, knows no text. What it does not cover is in docs/evaluation.md: many comparisons at once, and the luck of
training where there is one seed.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from arkasr.evaluate.grouping import are_drawn, sums_by_group
from arkasr.evaluate.over_seeds import estimate_over_seeds

CONFIDENCE = 0.95
# Samples drawn at once: bounds memory at a few megabytes for thousands of utterances.
CHUNK = 500


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same utterances.

    Attributes:
        difference: rate of a minus rate of b; below zero, a is better.
        ci95: interval of the difference; None where there is nothing to judge by, such as a single speaker.
        p: two-sided; None where there is no interval.
        test: how `p` and `ci95` were found.
        seeds: training seeds of a and of b.
        df: degrees of freedom of a t test; None = `p` is of a permutation test, or is not.
    """

    difference: float
    ci95: tuple[float, float] | None
    p: float | None
    test: str
    seeds: tuple[int, int]
    df: float | None = None

    def speaks_of(self, a: str, b: str, ran_once: Sequence[str] = ()) -> str:
        """What `p` and `ci95` are valid for: the two models, or the recipes that the seeds are a sample of.

        Args:
            a: name of the first system.
            b: name of the second one.
            ran_once: what is the same under all seeds, such as the teacher; its luck is not sampled.
        """
        if self.seeds == (1, 1):
            return "these two models, not the recipes that made them (one training seed)"
        if 1 in self.seeds:
            many, one = (a, b) if self.seeds[1] == 1 else (b, a)
            given = with_one_run(ran_once)
            return f"the recipe of {many}{given} ({max(self.seeds)} training seeds) and the one model {one}"
        ways = " and ".join(str(seeds) for seeds in dict.fromkeys(self.seeds))
        return f"the two recipes{with_one_run(ran_once)} ({ways} training seeds)"


@dataclass(frozen=True)
class SeedMean:
    """A system's rate over its training seeds.

    Attributes:
        rate: mean of the pooled rates of the seeds.
        deviation: sample standard deviation of the rates over the seeds.
        ci95: of the recipe's rate, over seeds and utterances; None where there is nothing to judge by.
    """

    rate: float
    deviation: float
    ci95: tuple[float, float] | None


def with_one_run(stages: Sequence[str]) -> str:
    """The condition under which a claim about a recipe holds, in words; nothing where no stage ran once for all."""
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
    """95% percentile interval of one model's pooled rate, `sum(errors) / sum(reference_tokens)`.

    A sample that drew empty references only has no rate and is left out. None where there is no reference token, or
    fewer than two groups to draw from.

    Args:
        errors: `[U]`.
        reference_tokens: `[U]`.
        groups: `[U]`, what is drawn as a whole, such as speakers; None = each utterance by itself.
        strata: `[U]`, parts that keep their size in every sample, such as test sets; None = one part. Groups cut
            across strata: where they are given, strata are not kept.
        samples: bootstrap samples.
        seed: of the draws.
    """
    counts = np.stack([np.asarray(errors, float), np.asarray(reference_tokens, float)])
    if not counts[1].any():
        return None
    sums = sums_by_group(counts, groups, strata)
    return _percentile_interval(sums, samples, seed) if are_drawn(sums) else None


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
        groups: as for `bootstrap_interval`.
        strata: as for `bootstrap_interval`.
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

    Two single models: `p` is of the paired permutation test. Under the null hypothesis the two outputs of an utterance
    (or of a speaker) could as well be exchanged, so the signs of the differences are drawn at random;
    `(k + 1) / (samples + 1)`. Several seeds of one system or both: the t test of `over_seeds.py`. Fewer than two
    groups: neither `p` nor interval.

    Args:
        errors_a: `[U]`, or `[seeds, U]` of several training seeds.
        errors_b: the same for the other system. Equal numbers of seeds are paired: a row of both is one seed.
        reference_tokens: `[U]`, not all 0.
        groups: as for `bootstrap_interval`.
        strata: as for `bootstrap_interval`.
        samples: permutations, and bootstrap samples.
        seed: of the draws.
    """
    a, b = np.atleast_2d(np.asarray(errors_a, float)), np.atleast_2d(np.asarray(errors_b, float))
    tokens = np.asarray(reference_tokens, float)
    seeds = len(a), len(b)
    over = "utterances" if groups is None else "speakers"
    nothing = f"no test: fewer than two {over}, or all of them alike"
    if seeds == (1, 1):
        sums = sums_by_group(np.stack([(a - b)[0], tokens]), groups, strata)
        difference = float((a - b).sum() / tokens.sum())
        if not are_drawn(sums):
            return Comparison(difference, None, None, nothing, seeds)
        return Comparison(
            difference,
            ci95=_percentile_interval(sums, samples, seed),
            p=_permutation_p(np.concatenate([part[:, 0] for part in sums]), samples, seed),
            test=f"paired permutation test over {over}, {samples} permutations; bootstrap interval",
            seeds=seeds,
        )
    is_paired = len(a) == len(b) or 1 in seeds
    estimate = estimate_over_seeds([a - b] if is_paired else [a, -b], tokens, groups, strata)
    test = nothing if estimate.df is None else f"t test and t interval over training seeds and {over}"
    return Comparison(estimate.value, estimate.interval(CONFIDENCE), estimate.p, test, seeds, estimate.df)


def _permutation_p(differences: NDArray[Any], samples: int, seed: int) -> float:
    observed = abs(differences.sum())
    generator = np.random.default_rng(seed)
    extreme = 0
    for count in _chunks(samples):
        signs = generator.integers(0, 2, (count, len(differences))) * 2 - 1
        extreme += int((np.abs(signs @ differences) >= observed - 1e-9).sum())
    return (extreme + 1) / (samples + 1)


def _percentile_interval(sums: list[NDArray[Any]], samples: int, seed: int) -> tuple[float, float]:
    """Of the ratio of the first column to the second; `sums` is `[G, 2]` for each stratum."""
    drawn = np.concatenate(_resample(sums, samples, seed))
    drawn = drawn[drawn[:, 1] > 0]  # what drew no reference token has no rate
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [tail, 1 - tail])
    return float(low), float(high)


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
