"""Mean rates and differences over several training seeds. The variance includes both seeds and test utterances.

The design is crossed: every seed transcribes every utterance, as every reader reads every case in a reader study. The
variance of a mean over S seeds is (Obuchowski and Rockette 1995, Communications in Statistics - Simulation 24:285;
Hillis 2007, Statistics in Medicine 26:596)

    variance of the rate over seeds / S  +  covariance between seeds, which comes from the shared utterances.

The covariance is a jackknife estimate: each utterance (or speaker) is left out once. An utterance with many tokens
thus counts for more (Efron and Stein 1981, Annals of Statistics 9:586). If the estimate is 0 or negative, the total is
at least the jackknife variance of the errors averaged over seeds. Without this rule, seeds with equal rates would then
have a variance of 0.

Seeds have S - 1 degrees of freedom. G utterances count as (sum of squared tokens)^2 / (sum of tokens^4) utterances of
equal length (Carter, Schnepel and Steigerwald 2017, Review of Economics and Statistics 99:698); this number times
(G - number of strata) / G is their degrees of freedom, where a stratum is a test set of fixed size. The degrees of
freedom of the total are the harmonic mean of both, weighted by the variances.
Satterthwaite's weights, the squared variances, give a type I error of about 8% at three seeds; these give at most 6%
(`benchmarks/significance.py`).
"""

import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arkasr.evaluate.grouping import can_resample, sums_by_group
from arkasr.evaluate.t_distribution import central_probability, critical_value

ROUNDING_VARIANCE = 1e-18  # smaller variances are rounding errors; one error in 1e8 tokens has 1e-16
MIN_P = 1e-9  # accuracy of `central_probability`


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its variance.

    Attributes:
        value: a rate or a difference of rates, a share.
        variance: of `value`, from seeds and utterances.
        df: degrees of freedom of `variance`; None = neither interval nor p-value can be computed.
    """

    value: float
    variance: float
    df: float | None

    def interval(self, confidence: float) -> tuple[float, float] | None:
        """The t interval."""
        if self.df is None:
            return None
        half_width = critical_value(self.df, confidence) * math.sqrt(self.variance)
        return self.value - half_width, self.value + half_width

    @property
    def p(self) -> float | None:
        """p-value of the two-sided t test against 0; below 0.05 if and only if the 95% interval excludes 0."""
        if self.df is None:
            return None
        if self.variance == 0:
            return 1.0
        return max(1 - central_probability(abs(self.value) / math.sqrt(self.variance), self.df), MIN_P)


def estimate_over_seeds(
    error_arrays: Sequence[NDArray[Any]],
    reference_tokens: NDArray[Any],
    groups: Sequence[Hashable] | None,
    strata: Sequence[Hashable] | None,
) -> Estimate:
    """The sum of the mean rates of the arrays.

    Args:
        error_arrays: `[S, U]` each, S >= 2: errors by seed and utterance, or differences of errors paired by seed.
            Two systems with different numbers of seeds are given as two arrays; the second is multiplied by -1.
        reference_tokens: `[U]`, not all 0.
        groups: `[U]`, utterances that are resampled together, such as those of a speaker; None = each by itself.
        strata: `[U]`, parts whose size is fixed; ignored if there are groups.

    Returns:
        The estimate. Its `df` is None if fewer than two groups can be resampled or have tokens, or if the value is
        not 0 and its variance is 0.
    """
    strata_sums = sums_by_group(np.concatenate([*error_arrays, reference_tokens[None]]), groups, strata)
    totals = sum(sums.sum(0) for sums in strata_sums)
    rates = totals[:-1] / totals[-1]
    ends = np.cumsum([0, *map(len, error_arrays)])
    seed_slices = [slice(*pair) for pair in itertools.pairwise(ends)]
    value = float(sum(rates[seeds].mean() for seeds in seed_slices))
    if not can_resample(strata_sums) or sum(np.count_nonzero(sums[:, -1]) for sums in strata_sums) < 2:
        return Estimate(value, 0.0, None)
    variances = [float(rates[seeds].var(ddof=1)) / (seeds.stop - seeds.start) for seeds in seed_slices]
    dfs = [float(seeds.stop - seeds.start - 1) for seeds in seed_slices]
    variances.append(_utterance_variance(strata_sums, rates, seed_slices, sum(variances)))
    dfs.append(_utterance_df([sums[:, -1] for sums in strata_sums]))
    total = sum(variances)
    if total < ROUNDING_VARIANCE:
        return Estimate(value, 0.0, dfs[-1] if abs(value) < math.sqrt(ROUNDING_VARIANCE) else None)
    inverse_df = sum(variance / total / df for variance, df in zip(variances, dfs, strict=True))
    return Estimate(value, float(total), float(1 / inverse_df))


def _utterance_variance(
    strata_sums: Sequence[NDArray[Any]], rates: NDArray[Any], seed_slices: Sequence[slice], seed_variance: float
) -> float:
    """The variance that the utterances add to `seed_variance`, the seeds' part of the variance of the mean."""
    tokens = sum(sums[:, -1].sum() for sums in strata_sums)
    changes = np.concatenate([_jackknife_changes(sums, rates, tokens) for sums in strata_sums if len(sums) > 1])
    covariance = _covariance_between_seeds(changes.T @ changes, seed_slices)
    if covariance > 0:
        return covariance
    mean_changes = sum(changes[:, seeds].mean(1) for seeds in seed_slices)
    return max(float((mean_changes**2).sum()) - seed_variance, 0.0)


def _jackknife_changes(sums: NDArray[Any], rates: NDArray[Any], tokens: float) -> NDArray[Any]:
    """Changes `[G, K]` of the rates `[K]` if one group is left out, scaled: the sum of their squares is the variance.

    The rest of the stratum, with sums `[G, K + 1]`, is scaled up to its full size; `tokens` is the total of all strata.
    """
    scale = len(sums) / (len(sums) - 1)
    centred = sums - sums.mean(0)
    residuals = centred[:, :-1] - centred[:, -1:] * rates
    return math.sqrt(scale) * residuals / (tokens - scale * centred[:, -1:])


def _utterance_df(tokens: Sequence[NDArray[Any]]) -> float:
    """Degrees of freedom of groups with these tokens, `[G]` for each stratum; at least 1."""
    squares = np.concatenate([stratum for stratum in tokens if len(stratum) > 1]) ** 2
    equal_groups = float(squares.sum() ** 2 / (squares**2).sum())
    df_if_equal = sum(len(stratum) - 1 for stratum in tokens)
    return max(equal_groups * df_if_equal / len(squares), 1.0)


def _covariance_between_seeds(covariance: NDArray[Any], seed_slices: Sequence[slice]) -> float:
    """Mean covariance of two different seeds, summed over all pairs of arrays."""
    total = 0.0
    for first in seed_slices:
        for second in seed_slices:
            block = covariance[first, second]
            if first == second:
                total += float(block.sum() - np.trace(block)) / (len(block) * (len(block) - 1))
            else:
                total += float(block.mean())
    return total
