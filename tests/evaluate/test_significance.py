import numpy as np
import pytest

from arkasr.evaluate.significance import bootstrap_interval, mean_over_seeds, paired_comparison


def utterances(generator, rate, count=150):
    tokens = generator.integers(3, 12, count)
    return generator.binomial(tokens, rate), tokens


def test_the_bootstrap_interval_covers_the_true_rate():
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(150):
        errors, tokens = utterances(generator, 0.2)
        low, high = bootstrap_interval(errors, tokens, samples=400, seed=trial)
        covered += low <= 0.2 <= high
    assert 0.90 <= covered / 150 <= 0.99


def test_p_is_uniform_under_the_null_hypothesis():
    generator = np.random.default_rng(1)
    ps = []
    for trial in range(150):
        a, tokens = utterances(generator, 0.2, 80)
        b = generator.binomial(tokens, 0.2)
        ps.append(paired_comparison(a, b, tokens, samples=300, seed=trial).p)
    assert 0.01 <= np.mean(np.array(ps) < 0.05) <= 0.11
    assert 0.4 <= np.mean(np.array(ps) < 0.5) <= 0.6


def test_a_real_difference_is_found_with_its_sign():
    generator = np.random.default_rng(2)
    a, tokens = utterances(generator, 0.1, 400)
    b = generator.binomial(tokens, 0.2)
    comparison = paired_comparison(a, b, tokens, samples=2_000)
    assert comparison.difference == pytest.approx(a.sum() / tokens.sum() - b.sum() / tokens.sum())
    assert comparison.ci95[0] <= comparison.difference <= comparison.ci95[1] < 0
    assert comparison.p == pytest.approx(1 / 2_001)


def test_equal_systems_have_p_of_one():
    errors, tokens = utterances(np.random.default_rng(3), 0.2)
    comparison = paired_comparison(errors, errors, tokens, samples=200)
    assert (comparison.difference, comparison.ci95, comparison.p) == (0.0, (0.0, 0.0), 1.0)


def test_identical_seeds_add_no_information():
    """Three identical copies of the decodings must not make the interval narrower or p smaller."""
    generator = np.random.default_rng(4)
    a, tokens = utterances(generator, 0.2, 60)
    b = generator.binomial(tokens, 0.25)
    once = paired_comparison(a, b, tokens)
    thrice = paired_comparison([a, a, a], [b, b, b], tokens)
    assert thrice.difference == pytest.approx(once.difference)
    assert thrice.p == pytest.approx(once.p, abs=0.005)
    assert thrice.ci95 == pytest.approx(once.ci95, rel=0.15)
    assert mean_over_seeds([a, a, a], tokens).ci95 == pytest.approx(bootstrap_interval(a, tokens), rel=0.1)


def test_an_interval_over_speakers_is_wider_if_speakers_differ():
    """Only speakers differ here, so an interval over utterances is far too narrow."""
    generator = np.random.default_rng(5)
    speakers = np.repeat(np.arange(10), 30)
    tokens = np.full(300, 10)
    errors = generator.binomial(tokens, np.repeat(generator.uniform(0, 0.5, 10), 30))
    by_utterance = bootstrap_interval(errors, tokens, samples=1_000)
    by_speaker = bootstrap_interval(errors, tokens, groups=speakers.tolist(), samples=1_000)
    assert by_speaker[1] - by_speaker[0] > 2 * (by_utterance[1] - by_utterance[0])


def test_strata_keep_their_size_in_every_sample():
    """If every stratum has a constant rate, all samples are equal."""
    errors, tokens = [0] * 20 + [10] * 5, [10] * 25
    low, high = bootstrap_interval(errors, tokens, strata=["a"] * 20 + ["b"] * 5, samples=300)
    assert low == high == pytest.approx(0.2)


def test_the_bootstrap_is_reproducible():
    errors, tokens = utterances(np.random.default_rng(6), 0.2)
    assert bootstrap_interval(errors, tokens, seed=1) == bootstrap_interval(errors, tokens, seed=1)
    assert bootstrap_interval(errors, tokens, seed=1) != bootstrap_interval(errors, tokens, seed=2)


def test_samples_without_reference_tokens_are_left_out():
    """A quarter of the samples draw the empty reference twice."""
    low, high = bootstrap_interval([2, 1], [0, 5], samples=500)
    assert (low, high) == pytest.approx((0.2, 0.6))
    comparison = paired_comparison([2, 1], [0, 1], [0, 5], samples=500)
    assert 0 <= comparison.ci95[0] <= comparison.ci95[1] <= 0.4
    assert bootstrap_interval([2, 1], [0, 0], samples=500) is None


def test_a_speaker_in_two_sets_is_one_group():
    """Four signs have 16 combinations, 2 of them as extreme; eight speakers would have 2 in 256."""
    sets = ["a"] * 4 + ["b"] * 4
    comparison = paired_comparison([2] * 8, [3] * 8, [10] * 8, groups=[1, 2, 3, 4] * 2, strata=sets)
    assert comparison.p == pytest.approx(2 / 16, abs=0.02)
    errors = [0, 10, 0, 10]
    two_speakers = bootstrap_interval(errors, [10] * 4, groups=["x", "y"] * 2, strata=["a", "a", "b", "b"])
    assert two_speakers == (0.0, 1.0)


@pytest.mark.parametrize(
    ("seeds_a", "seeds_b", "speaks_of"),
    [
        (1, 1, "these two models, not the recipes that made them (one training seed)"),
        (3, 3, "the two recipes (3 training seeds)"),
        (3, 2, "the two recipes (3 and 2 training seeds)"),
        (3, 1, "the recipe of opd (3 training seeds) and the one model teacher"),
        (1, 3, "the recipe of teacher (3 training seeds) and the one model opd"),
    ],
)
def test_a_comparison_names_its_scope(seeds_a, seeds_b, speaks_of):
    generator = np.random.default_rng(7)
    tokens = generator.integers(3, 12, 40)
    comparison = paired_comparison(
        generator.binomial(tokens, 0.2, (seeds_a, 40)), generator.binomial(tokens, 0.2, (seeds_b, 40)), tokens
    )
    assert comparison.speaks_of("opd", "teacher") == speaks_of
    condition = " with this one run of teacher and labels (" if max(seeds_a, seeds_b) > 1 else " ("
    assert comparison.speaks_of("opd", "teacher", ["teacher", "labels"]) == speaks_of.replace(" (", condition)
    assert ("permutation" in comparison.test) == (seeds_a == seeds_b == 1)
