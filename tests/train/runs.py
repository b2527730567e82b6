"""Settings of short training runs, ways to kill one, and what a run leaves."""

import contextlib

import torch

from arkasr.train.metrics import read_metrics
from arkasr.train.settings import OptimizationSettings

SETTINGS = OptimizationSettings(steps=6, batch_seconds=10, learning_rate=1e-2, warmup_steps=2, schedule="cosine")


class KilledError(Exception):
    """Stands for a kill: training ends at once, without a checkpoint."""


def kill_at(killed_step):
    """An `on_step` that kills the run after a step; None = never."""

    def on_step(step, _metrics):
        if step == killed_step:
            raise KilledError

    return on_step


def killed():
    """A block that a kill may end."""
    return contextlib.suppress(KilledError)


def logged(folder, *names):
    """The named metrics of every logged step."""
    return [tuple(line.get(name) for name in names) for line in read_metrics(folder / "metrics.jsonl")]


def losses(folder):
    """The loss of every step."""
    return logged(folder, "step", "loss")


def weights_of(recognizer):
    """A copy of the weights."""
    return {name: value.clone() for name, value in recognizer.model.state_dict().items()}


def assert_weights(recognizer, expected):
    """The weights are equal to `expected` to the last bit."""
    for name, value in recognizer.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
