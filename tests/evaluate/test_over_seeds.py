"""Simulated evaluations with known true rates (`benchmarks/significance.py`), at a fixed seed."""

import numpy as np
import pytest
from benchmarks.significance import (
    AN4,
    HARD,
    SPEAKERS,
    averaged_seeds,
    four_speakers,
    hard_set,
    one_seed,
    several_seeds,
    simulated,
)

from arkasr.evaluate.over_seeds import estimate_over_seeds
from arkasr.evaluate.significance import bootstrap_interval, mean_over_seeds, paired_comparison

DRAWS = 400  # the standard error of a 5% share is 1.1 points


@pytest.mark.parametrize("test_set", [AN4, SPEAKERS], ids=str)
@pytest.mark.parametrize("spread", [0.0, 0.02, 0.06])
def test_coverage_and_type_one_error_with_three_seeds(test_set, spread):
    coverage, type_one = several_seeds(test_set, 3, spread, DRAWS)
    assert 0.93 <= coverage <= 0.985
    assert type_one <= 0.07


@pytest.mark.parametrize("seeds", [2, 3, 10])
@pytest.mark.parametrize(("hard", "least"), [(HARD[0], 0.90), (HARD[1], 0.93)], ids=["few long", "few errors"])
def test_coverage_and_type_one_error_on_hard_test_sets(hard, least, seeds):
    """The earlier method covered 87, 84 (few long) and 87% (few errors, two seeds), and 6% of its p were exactly 0."""
    coverage, type_one = hard_set(hard, seeds, DRAWS)
    assert coverage >= least
    assert type_one <= 0.06


def test_averaging_errors_over_seeds_has_a_high_type_one_error():
    coverage, type_one = averaged_seeds(AN4, 3, 0.06, DRAWS)
    assert coverage < 0.75
    assert type_one > 0.4


def test_one_seed_covers_the_difference_of_models_but_not_of_recipes():
    of_models, of_recipes = one_seed(AN4, 0.06, DRAWS)
    assert 0.91 <= of_models <= 0.98
    assert of_recipes < 0.6


def test_a_speaker_in_two_sets_gets_one_sign():
    whole, split = four_speakers()
    assert whole == pytest.approx(2 / 16, abs=0.01)
    assert split == pytest.approx(2 / 256, abs=0.003)


@pytest.mark.parametrize("seeds", [(3, 3), (4, 2), (5, 1)])
def test_p_is_below_0_05_if_and_only_if_the_interval_excludes_zero(seeds):
    generator = np.random.default_rng(0)
    found = set()
    for _ in range(60):
        tokens = generator.integers(3, 12, 50)
        a, b = (generator.binomial(tokens, rate, (count, 50)) for rate, count in zip((0.2, 0.27), seeds, strict=True))
        comparison = paired_comparison(a, b, tokens)
        low, high = comparison.ci95
        assert (comparison.p < 0.05) == (not low <= 0 <= high)
        found.add(comparison.p < 0.05)
    assert found == {True, False}


def test_type_one_error_with_different_numbers_of_seeds():
    found = 0
    for draw in simulated(AN4, 5, 0.04, DRAWS):
        found += paired_comparison(draw.errors[0], draw.errors[1, :3], draw.tokens).p < 0.05
    assert 0.02 <= found / DRAWS <= 0.08


def test_mean_and_deviation_are_those_of_the_rates():
    generator = np.random.default_rng(1)
    tokens = generator.integers(3, 12, 50)
    errors = generator.binomial(tokens, 0.2, (4, 50))
    rates = errors.sum(1) / tokens.sum()
    mean = mean_over_seeds(errors, tokens)
    assert mean.rate == pytest.approx(rates.mean())
    assert mean.deviation == pytest.approx(rates.std(ddof=1))
    assert mean.ci95[0] < mean.rate < mean.ci95[1]


def test_constant_strata_leave_only_the_variance_of_seeds():
    """All utterances of a stratum are equal, so the interval is the textbook t interval over seeds."""
    first, second = np.array([[1] * 20 + [8] * 10, [3] * 20 + [8] * 10])
    sets = ["a"] * 20 + ["b"] * 10
    low, high = mean_over_seeds([first, second], [10] * 30, strata=sets).ci95
    rates = np.array([100 / 300, 140 / 300])
    half = 12.7062 * rates.std(ddof=1) / np.sqrt(2)
    assert (low, high) == (0.0, pytest.approx(rates.mean() + half, rel=1e-4))


def test_variance_degrees_of_freedom_and_p_equal_a_manual_calculation():
    """Two seeds, four utterances of ten words each; b makes no error.

    Seeds: rates 0.2 and 0.1, variance 0.005 / 2 = 1/400, 1 degree of freedom. Utterances: residuals (2, -2, 0, 0) and
    (1, -1, 1, -1), covariance 4 * 4/3 / 40^2 = 1/300, 3 degrees of freedom. The variances are as 3 to 4, so the mean
    inverse is 3/7 / 1 + 4/7 / 3 = 13/21. Satterthwaite's would be 1/3.4.
    """
    comparison = paired_comparison([[4, 0, 2, 2], [2, 0, 2, 0]], np.zeros((2, 4)), [10] * 4)
    assert comparison.difference == pytest.approx(0.15)
    assert comparison.df == pytest.approx(21 / 13)
    assert comparison.p == pytest.approx(
        0.217879, abs=1e-6
    )  # the density with 21/13 degrees of freedom, summed in 2e6 steps
    assert sum(comparison.ci95) == pytest.approx(0.3)


def test_seeds_with_equal_rates_leave_the_variance_of_utterances():
    """One error per seed, in different utterances of 130: the average has 1/3 in three of them, t = 1.7456."""
    errors = np.zeros((3, 130))
    errors[[0, 1, 2], [0, 10, 20]] = 1
    comparison = paired_comparison(np.zeros((3, 130)), errors, [5] * 130)
    deviation = np.sqrt((1 / 3 - 1 / 130) * 130 / 129) / 650
    assert comparison.df == pytest.approx(129)
    assert comparison.p == pytest.approx(0.0832, abs=1e-4)
    assert comparison.ci95 == pytest.approx((-1 / 650 - 1.9785 * deviation, -1 / 650 + 1.9785 * deviation), rel=1e-3)
    assert mean_over_seeds(errors, [5] * 130).ci95[1] == pytest.approx(1 / 650 + 1.9785 * deviation, rel=1e-3)


def test_a_positive_covariance_is_not_raised_to_the_floor():
    """Residuals (1, 1, -2) and (1, 0, -1): the covariance is 3 * 3/2 / 30^2; the average would have 3.5, not 3."""
    estimate = estimate_over_seeds([np.array([[4.0, 4, 1], [4, 3, 2]])], np.array([10.0] * 3), None, None)
    assert estimate.variance == pytest.approx(3 * 3 / 2 / 900)


def test_identical_seeds_have_the_jackknife_variance():
    """One utterance has half of the words, so plain residuals would underestimate the variance."""
    errors, tokens = np.array([1.0, 0, 2, 1, 9]), np.array([4.0, 5, 6, 5, 20])
    left_out = (errors.sum() - errors) / (tokens.sum() - tokens)
    estimate = estimate_over_seeds([np.stack([errors, errors])], tokens, None, None)
    assert estimate.variance == pytest.approx(4 / 5 * ((left_out - errors.sum() / tokens.sum()) ** 2).sum())


def test_few_long_utterances_have_few_degrees_of_freedom():
    """Squares 8 + 200, fourth powers 8 + 20000: 2.16 equal utterances, times 9/10 for the one stratum."""
    tokens = np.array([1.0] * 8 + [10.0] * 2)
    errors = np.array([1.0, 0] * 4 + [3, 1])
    by_utterance = estimate_over_seeds([np.stack([errors, errors])], tokens, None, None)
    assert by_utterance.df == pytest.approx(208**2 / 20008 * 9 / 10)
    by_speaker = estimate_over_seeds([np.stack([errors, errors])], tokens, [0, 1] * 5, None)
    assert by_speaker.df == pytest.approx(1)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize(
    "units", [{"groups": ["x", "x"]}, {"strata": ["a", "b"]}], ids=["one speaker", "one utterance a set"]
)
def test_a_single_group_has_no_p_and_no_interval(seeds, units):
    a, b = [[1, 2], [2, 1]][:seeds], [[2, 3], [2, 2]][:seeds]
    comparison = paired_comparison(a, b, [5, 5], **units)
    assert (comparison.ci95, comparison.p, comparison.df) == (None, None, None)
    assert comparison.difference < 0
    assert comparison.test.startswith("no test: fewer than two ")
    assert bootstrap_interval(a[0], [5, 5], **units) is None
    if seeds > 1:
        assert mean_over_seeds(a, [5, 5], **units).ci95 is None


def test_utterances_without_tokens_are_not_counted_as_groups():
    assert paired_comparison([[1, 2], [2, 1]], [[3, 3], [2, 2]], [0, 5]).p is None


def test_a_constant_difference_has_no_p_and_no_difference_has_p_of_one():
    assert paired_comparison([[2] * 4] * 3, [[3] * 4] * 3, [10] * 4).p is None
    same = paired_comparison([[2] * 4] * 3, [[2] * 4] * 3, [10] * 4)
    assert (same.difference, same.ci95, same.p) == (0.0, (0.0, 0.0), 1.0)


def test_a_p_is_never_zero():
    generator = np.random.default_rng(2)
    a, b = generator.binomial(10, 0.05, (5, 2000)), generator.binomial(10, 0.9, (5, 2000))
    assert 0 < paired_comparison(a, b, [10] * 2000).p < 1e-4
