import pytest
import torch

from arkasr.train.loop_watch import WINDOW_STEPS, LoopWatch


def remarks(watch, shares, rollouts=50):
    return [watch.step(round(share * rollouts), rollouts) for share in shares]


def test_a_run_whose_loops_grow_says_so_once_and_again_when_they_have_doubled():
    watch = LoopWatch()
    said = remarks(watch, [0.0] * WINDOW_STEPS + [0.1] * 2 * WINDOW_STEPS + [0.5] * WINDOW_STEPS)
    found = [remark for remark in said if remark]
    assert "where it was 0.0%" in found[0]
    assert said.index(found[0]) < WINDOW_STEPS + 10
    assert 2 <= len(found) <= 5


@pytest.mark.parametrize(
    "shares",
    [
        pytest.param([0.4] * 30 + [0.01] * 200 + [0.7] * 30, id="what was lost at first and then learned"),
        pytest.param([0.5] * 30 + [0.98] * 30, id="more than half at first"),
        pytest.param([0.3] * 30 + [0.66] * 30, id="a third at first"),
    ],
)
def test_a_run_is_measured_against_its_best_steps(shares):
    assert any(remarks(LoopWatch(), shares))


def test_loops_that_went_and_come_again_are_said_again():
    course = [0.0] * 30 + [0.3] * 30
    assert sum(map(bool, remarks(LoopWatch(), course + course))) >= 2 * sum(map(bool, remarks(LoopWatch(), course)))


def test_a_run_that_loops_as_much_as_ever_says_nothing():
    watch = LoopWatch()
    assert not any(remarks(watch, [0.30, 0.36, 0.24] * 3 * WINDOW_STEPS))


def test_one_loop_in_a_small_batch_is_no_trend():
    watch = LoopWatch()
    assert not any(remarks(watch, [0.0] * 30 + [0.25] + [0.0] * 30, rollouts=4))


def test_a_resumed_watch_says_what_an_undisturbed_one_says():
    shares = [0.0] * WINDOW_STEPS + [0.1] * WINDOW_STEPS
    undisturbed = remarks(LoopWatch(), shares)
    for cut in (0, 5, WINDOW_STEPS + 3):
        first, resumed = LoopWatch(), LoopWatch()
        said = remarks(first, shares[:cut])
        resumed.restore(first.tensor())
        assert said + remarks(resumed, shares[cut:]) == undisturbed


def test_a_run_whose_loops_come_and_go_by_chance_is_not_said_to_drift():
    """As seen on AN4: 3.6% of 240 rollouts, then 7.3%, then 2.3%, then 4.7%."""
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.rand((20, 1_000, 12), generator=generator) < 0.04).sum(2).tolist()
    warned = sum(any(watch.step(runaway, 12) for runaway in run) for run in drawn for watch in [LoopWatch()])
    assert warned <= 2
