"""A run with vLLM rollouts one step ahead, stopped by a signal to all its processes, and resumed."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch
import yaml
from safetensors.torch import load_file

from arkasr.data.manifests.manifest import write_manifest
from arkasr.recognizers.ark_asr import build_ark_asr
from arkasr.train.loop import train
from arkasr.train.metrics import read_metrics
from arkasr.train.stages.sft import SupervisedStage
from tests.models import TEXTS, small_teacher
from tests.train.runs import SETTINGS
from tests.train.stream import Stream
from tests.vllm.test_engine import SIZES

STEPS = 30


@pytest.fixture
def recipe(vocabulary, noise_examples, tmp_path):
    torch.manual_seed(0)
    student = build_ark_asr(SIZES, vocabulary)
    settings = SETTINGS.model_copy(update={"steps": 60, "schedule": "constant"})
    train(SupervisedStage(student, None), Stream([noise_examples(student)]), settings, tmp_path / "taught", seed=0)
    student.save(tmp_path / "student")
    small_teacher(vocabulary).save(tmp_path / "teacher")
    generator = np.random.default_rng(0)
    rows = []
    for index in range(12):
        seconds = 0.6 + 0.05 * index
        soundfile.write(tmp_path / f"{index}.wav", generator.normal(size=int(seconds * 16_000)) * 0.1, 16_000)
        text = TEXTS[index % len(TEXTS)]
        rows.append({"audio": f"{index}.wav", "text": text, "language": "English", "duration": seconds})
    write_manifest(tmp_path / "train.jsonl", rows)
    opd = {
        "kind": "opd",
        "start": "student",
        "teacher": "teacher",
        "train": "T",
        "calibration_batches": 1,
        "objective": {
            "top_k": 8,
            "max_new_tokens": 16,
            "rollouts": {"engine": "vllm", "staleness": 1, "cache_gib": 0.1},
        },
        "optimization": {"steps": STEPS, "batch_seconds": 3, "accumulation": 2, "learning_rate": 1e-3},
    }
    document = {
        "name": "ahead",
        "corpus": {"folder": str(tmp_path)},
        "sets": {"T": {"manifest": "train.jsonl"}},
        "models": {name: {"pretrained": str(tmp_path / name)} for name in ("student", "teacher")},
        "stages": {"opd": opd},
        "variants": {},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    return tmp_path / "recipe.yaml"


def start(recipe, output):
    command = [sys.executable, "-m", "arkasr", "run", str(recipe), "--output", str(output), "--resume"]
    with (output.parent / f"{output.name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def metrics(output):
    return read_metrics(output / "stages" / "opd" / "metrics.jsonl")


@pytest.mark.vllm
def test_a_run_whose_processes_all_get_a_signal_resumes_with_its_pending_rollouts(recipe, tmp_path):
    pytest.importorskip("vllm")
    uninterrupted, stopped = tmp_path / "uninterrupted", tmp_path / "stopped"
    assert start(recipe, uninterrupted).wait(timeout=300) == 0, (tmp_path / "uninterrupted.log").read_text()
    running = start(recipe, stopped)
    while len(metrics(stopped)) < 3:
        assert running.poll() is None, (tmp_path / "stopped.log").read_text()
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGTERM)
    assert running.wait(timeout=60) == 128 + signal.SIGTERM
    done = len(metrics(stopped))
    assert 3 <= done < STEPS
    assert start(recipe, stopped).wait(timeout=300) == 0, (tmp_path / "stopped.log").read_text()
    losses = [[line["loss"] for line in metrics(output)] for output in (uninterrupted, stopped)]
    assert losses[0] == losses[1]
    ours, theirs = (
        load_file(output / "stages" / "opd" / "model" / "model.safetensors") for output in (uninterrupted, stopped)
    )
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
