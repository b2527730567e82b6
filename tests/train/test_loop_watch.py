"""Warnings about a growing share of runaway rollouts."""

import pytest
import torch

from arkasr.train.loop_watch import WINDOW_STEPS, LoopWatch


def warnings(watch, shares, rollouts=50):
    return [watch.step(round(share * rollouts), rollouts) for share in shares]


def test_growing_loops_give_one_warning_and_another_when_they_double():
    watch = LoopWatch()
    results = warnings(watch, [0.0] * WINDOW_STEPS + [0.1] * 2 * WINDOW_STEPS + [0.5] * WINDOW_STEPS)
    given = [warning for warning in results if warning]
    assert "up from 0.0%" in given[0]
    assert results.index(given[0]) < WINDOW_STEPS + 10
    assert 2 <= len(given) <= 5


@pytest.mark.parametrize(
    "shares",
    [
        pytest.param([0.4] * 30 + [0.01] * 200 + [0.7] * 30, id="40% at first, then almost none"),
        pytest.param([0.5] * 30 + [0.98] * 30, id="half at first"),
        pytest.param([0.3] * 30 + [0.66] * 30, id="a third at first"),
    ],
)
def test_the_share_is_compared_with_the_best_steps(shares):
    assert any(warnings(LoopWatch(), shares))


def test_loops_that_return_are_warned_of_again():
    course = [0.0] * 30 + [0.3] * 30
    assert sum(map(bool, warnings(LoopWatch(), course + course))) >= 2 * sum(map(bool, warnings(LoopWatch(), course)))


def test_a_constant_share_of_loops_gives_no_warning():
    watch = LoopWatch()
    assert not any(warnings(watch, [0.30, 0.36, 0.24] * 3 * WINDOW_STEPS))


def test_one_loop_in_a_small_batch_gives_no_warning():
    watch = LoopWatch()
    assert not any(warnings(watch, [0.0] * 30 + [0.25] + [0.0] * 30, rollouts=4))


def test_a_restored_watch_gives_the_warnings_of_an_undisturbed_one():
    shares = [0.0] * WINDOW_STEPS + [0.1] * WINDOW_STEPS
    undisturbed = warnings(LoopWatch(), shares)
    for cut in (0, 5, WINDOW_STEPS + 3):
        first, resumed = LoopWatch(), LoopWatch()
        before = warnings(first, shares[:cut])
        resumed.restore(first.tensor())
        assert before + warnings(resumed, shares[cut:]) == undisturbed


def test_random_variation_rarely_gives_a_warning():
    """AN4 showed 3.6% of 240 rollouts, then 7.3%, 2.3% and 4.7%."""
    generator = torch.Generator().manual_seed(0)
    runs = (torch.rand((20, 1_000, 12), generator=generator) < 0.04).sum(2).tolist()
    warned = sum(any(watch.step(runaway, 12) for runaway in run) for run in runs for watch in [LoopWatch()])
    assert warned <= 2
