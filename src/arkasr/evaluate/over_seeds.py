"""Rates and differences over several training seeds: the luck of training and of the test utterances, both counted.

The design is crossed: every seed transcribes every utterance, as readers read cases in reader studies. Seeds and
utterances are each a sample of their own, and the variance of a mean over S seeds is (Obuchowski and Rockette 1995,
Communications in Statistics - Simulation 24:285; Hillis 2007, Statistics in Medicine 26:596)

    variance over seeds / S  +  covariance between seeds, which the shared utterances bring.

The covariance is the jackknife's, which weighs an utterance up that holds many of the tokens (Efron and Stein 1981,
Annals of Statistics 9:586). Where it comes out at 0 or below, the total is at least the variance of the seeds' average
over utterances: else seeds that tie would leave no variance at all.

Degrees of freedom are S - 1 for the seeds. For the utterances, they are those of as many equally long ones as vary by
the same: (sum of squared tokens)^2 / sum of tokens^4, less one in each stratum (Carter, Schnepel and Steigerwald 2017,
Review of Economics and Statistics 99:698). The inverses are averaged in proportion to the variances; Satterthwaite's
weights, the squared variances, find about 8% of equal recipes unequal where S is 3, these at most 6%
(`benchmarks/significance.py`).
"""

import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arkasr.evaluate.grouping import are_drawn, sums_by_group
from arkasr.evaluate.student import central_probability, critical_value

TIE = 1e-18  # a variance of rates that is but rounding: one error in 1e8 tokens has 1e-16
SMALLEST_P = 1e-9  # what the integral of `student.py` is good to


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and how sure it is.

    Attributes:
        value: a rate or a difference of rates, a share.
        variance: of `value`, from seeds and utterances.
        df: degrees of freedom of `variance`; None = nothing to judge by, neither interval nor p.
    """

    value: float
    variance: float
    df: float | None

    def interval(self, confidence: float) -> tuple[float, float] | None:
        """The t interval."""
        if self.df is None:
            return None
        half = critical_value(self.df, confidence) * math.sqrt(self.variance)
        return self.value - half, self.value + half

    @property
    def p(self) -> float | None:
        """Of the two-sided t test against 0; below 0.05 where the 95% interval leaves 0 out."""
        if self.df is None:
            return None
        if self.variance == 0:
            return 1.0
        return max(1 - central_probability(abs(self.value) / math.sqrt(self.variance), self.df), SMALLEST_P)


def estimate_over_seeds(
    sources: Sequence[NDArray[Any]],
    reference_tokens: NDArray[Any],
    groups: Sequence[Hashable] | None,
    strata: Sequence[Hashable] | None,
) -> Estimate:
    """The sum of the sources' mean rates.

    Args:
        sources: `[S, U]` each, S >= 2: errors by seed and utterance, or differences of errors paired by seed. Two
            systems of unlike numbers of seeds are two sources, the second negative.
        reference_tokens: `[U]`, not all 0.
        groups: `[U]`, what is drawn as a whole, such as speakers.
        strata: `[U]`, parts that keep their size; without meaning where there are groups.

    Returns:
        `df` is None where fewer than two groups can be drawn or have tokens, or all groups differ by one same rate.
    """
    parts = sums_by_group(np.concatenate([*sources, reference_tokens[None]]), groups, strata)
    totals = sum(part.sum(0) for part in parts)
    rates = totals[:-1] / totals[-1]
    ends = np.cumsum([0, *map(len, sources)])
    slices = [slice(*pair) for pair in itertools.pairwise(ends)]
    value = float(sum(rates[of].mean() for of in slices))
    if not are_drawn(parts) or sum(np.count_nonzero(part[:, -1]) for part in parts) < 2:
        return Estimate(value, 0.0, None)
    variances = [float(rates[of].var(ddof=1)) / (of.stop - of.start) for of in slices]
    freedoms = [float(of.stop - of.start - 1) for of in slices]
    variances.append(_of_utterances(parts, rates, slices, sum(variances)))
    freedoms.append(_utterances_df([part[:, -1] for part in parts]))
    total = sum(variances)
    if total < TIE:
        return Estimate(value, 0.0, freedoms[-1] if abs(value) < math.sqrt(TIE) else None)
    inverse = sum(part / total / freedom for part, freedom in zip(variances, freedoms, strict=True))
    return Estimate(value, float(total), float(1 / inverse))


def _of_utterances(
    parts: Sequence[NDArray[Any]], rates: NDArray[Any], slices: Sequence[slice], of_seeds: float
) -> float:
    """What the utterances add to the variance over seeds, `of_seeds`."""
    tokens = sum(part[:, -1].sum() for part in parts)
    changes = np.concatenate([_jackknife_changes(part, rates, tokens) for part in parts if len(part) > 1])
    between = _between_seeds(changes.T @ changes, slices)
    if between > 0:
        return between
    averaged = sum(changes[:, of].mean(1) for of in slices)
    return max(float((averaged**2).sum()) - of_seeds, 0.0)


def _jackknife_changes(part: NDArray[Any], rates: NDArray[Any], tokens: float) -> NDArray[Any]:
    """How the rates `[K]` change without a group, `[G, K]`; scaled so that the squares add up to the variance.

    The rest of the stratum `[G, K + 1]` stands in for the group that is left out; `tokens` are those of all strata.
    """
    scale = len(part) / (len(part) - 1)
    centred = part - part.mean(0)
    residuals = centred[:, :-1] - centred[:, -1:] * rates
    return math.sqrt(scale) * residuals / (tokens - scale * centred[:, -1:])


def _utterances_df(tokens: Sequence[NDArray[Any]]) -> float:
    """Degrees of freedom of groups with these tokens, `[G]` for each stratum."""
    squares = np.concatenate([part for part in tokens if len(part) > 1]) ** 2
    alike = float(squares.sum() ** 2 / (squares**2).sum())
    freedoms = sum(len(part) - 1 for part in tokens)
    return max(alike * freedoms / len(squares), 1.0)


def _between_seeds(covariance: NDArray[Any], slices: Sequence[slice]) -> float:
    """Mean covariance of two different trainings, added up over all pairs of sources."""
    total = 0.0
    for one in slices:
        for other in slices:
            block = covariance[one, other]
            if one == other:
                total += float(block.sum() - np.trace(block)) / (len(block) * (len(block) - 1))
            else:
                total += float(block.mean())
    return total
