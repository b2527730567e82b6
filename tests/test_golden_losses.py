"""Losses of every step of a small recipe, committed: a change of any is a change of what is trained."""

import json
from pathlib import Path

import pytest

from tests.golden_run import losses_of_smoke

GOLDEN = Path(__file__).with_name("golden_losses.json")
# Ten times the largest difference seen between AVX-512 and SSE2, each with audio that it had spoken itself.
TOLERANCE = 2e-4


def test_the_losses_of_every_step_are_those_committed(tmp_path):
    """Explain a change where it is committed; `python -m tests.write_golden_losses` writes the file anew."""
    golden = json.loads(GOLDEN.read_text())
    losses = losses_of_smoke(tmp_path / "run")
    assert losses.keys() == golden.keys()
    for stage, expected in golden.items():
        assert losses[stage] == pytest.approx(expected, rel=TOLERANCE), stage
