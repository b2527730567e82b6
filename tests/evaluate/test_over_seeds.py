"""Simulated evaluations with known truths (`benchmarks/significance.py`), at a fixed seed."""

import numpy as np
import pytest
from benchmarks.significance import AN4, SPEAKERS, averaged_seeds, four_speakers, one_seed, several_seeds, simulated

from arkasr.evaluate.significance import mean_over_seeds, paired_comparison

DRAWS = 400  # a share of 5% is then known to 1.1 points


@pytest.mark.parametrize("test_set", [AN4, SPEAKERS], ids=str)
@pytest.mark.parametrize("spread", [0.0, 0.02, 0.06])
def test_three_seeds_find_no_more_differences_between_equal_recipes_than_promised(test_set, spread):
    coverage, type_one = several_seeds(test_set, 3, spread, DRAWS)
    assert 0.92 <= coverage <= 0.99
    assert type_one <= 0.08


def test_errors_averaged_over_seeds_find_differences_that_are_not_there():
    coverage, type_one = averaged_seeds(AN4, 3, 0.06, DRAWS)
    assert coverage < 0.75
    assert type_one > 0.4


def test_one_seed_speaks_of_its_models_and_not_of_their_recipes():
    of_models, of_recipes = one_seed(AN4, 0.06, DRAWS)
    assert 0.91 <= of_models <= 0.98
    assert of_recipes < 0.6


def test_a_speaker_in_two_sets_is_flipped_as_a_whole():
    whole, split = four_speakers()
    assert whole == pytest.approx(2 / 16, abs=0.01)
    assert split == pytest.approx(2 / 256, abs=0.003)


@pytest.mark.parametrize("seeds", [(3, 3), (4, 2), (5, 1)])
def test_p_is_below_a_twentieth_where_the_interval_leaves_zero_out(seeds):
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


def test_unlike_numbers_of_seeds_count_the_luck_of_both():
    found = 0
    for draw in simulated(AN4, 5, 0.04, DRAWS):
        found += paired_comparison(draw.errors[0], draw.errors[1, :3], draw.tokens).p < 0.05
    assert 0.02 <= found / DRAWS <= 0.08


def test_the_mean_and_the_deviation_are_those_of_the_seeds_rates():
    generator = np.random.default_rng(1)
    tokens = generator.integers(3, 12, 50)
    errors = generator.binomial(tokens, 0.2, (4, 50))
    rates = errors.sum(1) / tokens.sum()
    mean = mean_over_seeds(errors, tokens)
    assert mean.rate == pytest.approx(rates.mean())
    assert mean.deviation == pytest.approx(rates.std(ddof=1))
    assert mean.ci95[0] < mean.rate < mean.ci95[1]


def test_sets_that_never_differ_inside_add_no_luck_of_utterances():
    """Within each stratum all utterances are alike, so only the seeds' spread is left: the textbook t interval."""
    first, second = np.array([[1] * 20 + [8] * 10, [3] * 20 + [8] * 10])
    sets = ["a"] * 20 + ["b"] * 10
    low, high = mean_over_seeds([first, second], [10] * 30, strata=sets).ci95
    rates = np.array([100 / 300, 140 / 300])
    half = 12.7062 * rates.std(ddof=1) / np.sqrt(2)
    assert (low, high) == (0.0, pytest.approx(rates.mean() + half, rel=1e-4))
