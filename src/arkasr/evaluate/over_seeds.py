"""Rates and differences over several training seeds: the luck of training and of the test utterances, both counted.

The design is crossed: every seed transcribes every utterance, as readers read cases in reader studies. Seeds and
utterances are each a sample of their own, and the variance of a mean over S seeds is (Obuchowski and Rockette 1995,
Communications in Statistics - Simulation 24:285; Hillis 2007, Statistics in Medicine 26:596)

    variance over seeds / S  +  covariance between seeds, which the shared utterances bring.

Degrees of freedom are the components' own, averaged as their inverses in proportion to the variances.
Satterthwaite's weights, the squared variances, find about 8% of equal recipes unequal where S is 3; these at most 6%
(`benchmarks/significance.py`).
"""

import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arkasr.evaluate.grouping import sums_by_group
from arkasr.evaluate.student import central_probability, critical_value


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and how sure it is.

    Attributes:
        value: a rate or a difference of rates, a share.
        variance: of `value`, from seeds and utterances.
        df: degrees of freedom of `variance`.
    """

    value: float
    variance: float
    df: float

    def interval(self, confidence: float) -> tuple[float, float]:
        """The t interval."""
        half = critical_value(self.df, confidence) * math.sqrt(self.variance)
        return self.value - half, self.value + half

    @property
    def p(self) -> float:
        """Of the two-sided t test against 0; below 0.05 where the 95% interval leaves 0 out."""
        if self.variance == 0:
            return float(self.value == 0)
        return 1 - central_probability(abs(self.value) / math.sqrt(self.variance), self.df)


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
    """
    parts = sums_by_group(np.concatenate([*sources, reference_tokens[None]]), groups, strata)
    totals = sum(part.sum(0) for part in parts)
    rates = totals[:-1] / totals[-1]
    covariance = sum((_covariance(part, rates) for part in parts), np.zeros((len(rates), len(rates))))
    ends = np.cumsum([0, *map(len, sources)])
    slices = [slice(*pair) for pair in itertools.pairwise(ends)]
    variances = [float(rates[of].var(ddof=1)) / (of.stop - of.start) for of in slices]
    freedoms = [of.stop - of.start - 1 for of in slices]
    variances.append(max(_between_seeds(covariance, slices) / totals[-1] ** 2, 0.0))
    freedoms.append(max(sum(len(part) - 1 for part in parts), 1))
    total = sum(variances)
    inverse = sum(part / total / freedom for part, freedom in zip(variances, freedoms, strict=True)) if total else 1.0
    return Estimate(float(sum(rates[of].mean() for of in slices)), total, 1 / inverse)


def _covariance(part: NDArray[Any], rates: NDArray[Any]) -> NDArray[Any]:
    """Of the columns' summed errors, from the residuals of the ratio estimator, for one stratum `[G, K + 1]`."""
    residuals = part[:, :-1] - part[:, -1:] * rates
    centred = residuals - residuals.mean(0)
    return centred.T @ centred * len(part) / max(len(part) - 1, 1)


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
