"""The committed losses of a small recipe. If the loss of any step changes, training has changed."""

import json
from pathlib import Path

import pytest

from tests.golden_run import losses_of_smoke

GOLDEN = Path(__file__).with_name("golden_losses.json")
# Ten times the largest difference between AVX-512 and SSE2, each with audio that it had synthesised itself.
TOLERANCE = 2e-4


def test_the_losses_of_every_step_equal_the_committed_ones(tmp_path):
    """The commit of a change says why. `python -m tests.write_golden_losses` writes the file again."""
    golden = json.loads(GOLDEN.read_text())
    losses = losses_of_smoke(tmp_path / "run")
    assert losses.keys() == golden.keys()
    for stage, expected in golden.items():
        assert losses[stage] == pytest.approx(expected, rel=TOLERANCE), stage
