import math

import pytest

from arkasr.evaluate.t_distribution import central_probability, critical_value


@pytest.mark.parametrize("t", [0.0, 0.3, 2.0, 12.7, 400.0])
def test_probabilities_equal_the_closed_forms(t):
    assert central_probability(t, 1) == pytest.approx(2 * math.atan(t) / math.pi, abs=1e-9)
    assert central_probability(t, 2) == pytest.approx(t / math.sqrt(2 + t * t), abs=1e-9)
    normal = math.erf(t / math.sqrt(2))
    assert central_probability(t, 1e9) == pytest.approx(normal, abs=1e-4)


@pytest.mark.parametrize(
    ("df", "quantile"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (9, 2.26216), (30, 2.04227), (1000, 1.96234)]
)
def test_quantiles_equal_the_published_tables(df, quantile):
    assert critical_value(df, 0.95) == pytest.approx(quantile, abs=1e-5)


def test_quantiles_at_fractional_degrees_of_freedom_invert_the_probability():
    for df in (1.2, 2.7, 5.5, 77.7):
        assert central_probability(critical_value(df, 0.95), df) == pytest.approx(0.95, abs=1e-9)
