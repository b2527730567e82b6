"""Student's t distribution with any number of degrees of freedom; numpy has none, and SciPy is no dependency."""

import math

import numpy as np

# With t = sqrt(df) tan(angle) the density is a power of a cosine over a finite range, which Gauss's rule integrates
# to 1e-9 for all degrees of freedom up to the cap; there the 97.5% quantile is the normal one but for 2e-4.
NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)
MOST_DF = 1e4


def central_probability(t: float, df: float) -> float:
    """P(|T| <= t) for t >= 0 and df >= 1."""
    df = min(df, MOST_DF)
    widest = math.atan(t / math.sqrt(df))
    angles = (NODES + 1) * widest / 2
    integral = float((WEIGHTS * np.cos(angles) ** (df - 1)).sum()) * widest / 2
    return min(2 * integral * _peak(df) * math.sqrt(df), 1.0)


def critical_value(df: float, confidence: float) -> float:
    """The t with P(|T| <= t) = confidence, by Newton's method.

    The probability is concave in t, so that the steps from 0 rise to the root and never pass it.
    """
    df = min(df, MOST_DF)
    t, step = 0.0, 1.0
    while step > 1e-9 * (1 + t):
        density = 2 * _peak(df) * (1 + t * t / df) ** (-(df + 1) / 2)
        step = (confidence - central_probability(t, df)) / density
        t += step
    return t


def _peak(df: float) -> float:
    """Density at 0."""
    return math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(math.pi * df)
