"""Writes golden_losses.json again: `python -m tests.write_golden_losses`."""

import json
import tempfile
from pathlib import Path

from tests.golden_run import losses_of_smoke
from tests.test_golden_losses import GOLDEN

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        losses = losses_of_smoke(Path(folder) / "run")
    rounded = {stage: [round(loss, 8) for loss in steps] for stage, steps in losses.items()}
    GOLDEN.write_text(json.dumps(rounded, indent=1) + "\n")
