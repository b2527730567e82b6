"""Metrics, the clock of a step's phases, and the metrics log."""

import itertools
import json

import pytest
import torch
from torch import nn

from arkasr.train.metrics import Metrics, MetricsLog, PhaseClock, read_metrics


def test_means_are_weighted_and_independent_of_the_order_of_merging():
    def batch(total, weight, extreme):
        metrics = Metrics()
        metrics.mean("loss", torch.tensor(total), weight)
        metrics.minimum("vuss_min", extreme)
        metrics.maximum("vuss_max", extreme)
        return metrics

    parts = [(6.0, 2, 5.0), (1.0, 1, 9.0), (5.0, 3, 2.0)]
    for order in itertools.permutations(parts):
        merged = Metrics()
        for part in order:
            merged.merge(batch(*part))
        assert merged.values() == {"loss": 2.0, "vuss_min": 2.0, "vuss_max": 9.0}


def test_a_mean_without_weight_is_left_out():
    metrics = Metrics()
    metrics.mean("empty", 0.0, 0)
    assert metrics.values() == {}


@pytest.fixture
def clock(monkeypatch):
    """A clock whose time advances by one second at every reading."""
    seconds = itertools.count()
    monkeypatch.setattr("arkasr.train.metrics.time.perf_counter", lambda: float(next(seconds)))
    return PhaseClock()


def test_a_nested_phase_pauses_the_outer_one(clock):
    with clock("student"):
        with clock("encode"):
            pass
        with clock("encode"):
            pass
    assert clock.reset() == {"student": 3.0, "encode": 2.0}
    assert clock.reset() == {}


def test_watched_modules_are_timed_only_within_a_phase(clock):
    encoder = nn.Linear(1, 1)
    clock.watch([encoder], "encode")
    encoder(torch.zeros(1))
    assert clock.reset() == {}
    with clock("rollout"):
        encoder(torch.zeros(1))
    assert clock.reset() == {"rollout": 2.0, "encode": 1.0}


def test_the_clock_works_after_an_error_within_a_phase(clock):
    with pytest.raises(RuntimeError), clock("student"):
        raise RuntimeError
    with clock("teacher"):
        pass
    assert clock.reset() == {"student": 1.0, "teacher": 1.0}


def test_a_resumed_log_drops_the_steps_after_the_checkpoint(tmp_path):
    log = MetricsLog(tmp_path)
    for step in (1, 2, 3):
        log.write(step, {"loss": float(step)})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    log = MetricsLog(tmp_path, resumed_step=2)
    log.write(3, {"loss": 30.0})
    log.close()
    assert [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1.0, 2.0, 30.0]
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 3
