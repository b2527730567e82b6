"""Parts of `benchmarks.gpu` that train with `recipes/smoke.yaml`: resuming after a kill, and the golden losses."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from benchmarks.child_processes import output_of
from benchmarks.gpu_setting import Finding, Findings, Setting, all_equal, relative_difference, within
from tests.golden_run import losses_of_smoke
from tests.test_golden_losses import GOLDEN
from tests.test_golden_losses import TOLERANCE as GOLDEN_TOLERANCE

from arkasr.data.manifests.manifest import read_rows

ROOT = Path(__file__).resolve().parents[1]
STAGE = "base-ctc"
STEPS = 40


def resume(setting: Setting) -> Findings:
    """A training run that is killed during a step and resumed, against an uninterrupted run."""
    environment = _environment(setting)
    with tempfile.TemporaryDirectory() as name:
        uninterrupted, killed = Path(name) / "uninterrupted", Path(name) / "killed"
        output_of(_train_command(uninterrupted), environment)
        _kill_after_step_10(killed, environment)
        done = len(_losses(killed))
        yield Finding("killed during training", f"after step {done} of {STEPS}", done < STEPS)
        output_of([*_train_command(killed), "--resume"], environment)
        expected, found = _losses(uninterrupted), _losses(killed)
        yield all_equal("steps in the log", len(found), STEPS)
        limit = 1e-12 if setting.device == "cpu" else 1e-3
        yield within("losses against the uninterrupted run", relative_difference(found, expected), limit)


def _train_command(output: Path) -> list[str]:
    command = [sys.executable, "-m", "arkasr", "train", "ctc", str(ROOT / "recipes/smoke.yaml"), "--stage", STAGE]
    for key, value in {"steps": STEPS, "checkpoint_every": 5}.items():
        command += ["--set", f"stages.{STAGE}.optimization.{key}={value}"]
    return [*command, "--output", str(output)]


def _kill_after_step_10(output: Path, environment: Mapping[str, str]) -> None:
    process = subprocess.Popen(_train_command(output), env=environment, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (output / "stages" / STAGE / "checkpoints/step-10").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def _environment(setting: Setting) -> dict[str, str]:
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if setting.device == "cpu" else {}
    paths = os.pathsep.join(filter(None, (str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | hidden | {"PYTHONPATH": paths}


def _losses(run: Path) -> torch.Tensor:
    """Losses of all logged steps, `[steps]`."""
    return torch.tensor([row["loss"] for row in read_rows(run / "stages" / STAGE / "metrics.jsonl")])


def smoke(setting: Setting) -> Findings:
    """Losses of all steps of recipes/smoke.yaml in float64, against those of CPUs."""
    golden = json.loads(GOLDEN.read_text())
    with tempfile.TemporaryDirectory() as folder:
        losses = losses_of_smoke(Path(folder) / "run", setting.device)
    for stage, expected in golden.items():
        worst = max(abs(a - b) / b for a, b in zip(losses[stage], expected, strict=True))
        yield within(f"{stage}: {len(expected)} steps", worst, GOLDEN_TOLERANCE)
