"""The same recipe, started as one process and as several, from the command line."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch
import yaml
from safetensors.torch import load_file

from arkasr.recognizers.ark_asr import ArkAsr
from arkasr.train.loop import train
from arkasr.train.parts import trainable_parts
from arkasr.train.settings import OptimizationSettings
from arkasr.train.stages.sft import SupervisedStage
from tests.models import TEXTS, noise_examples, small_student, small_teacher, small_vocabulary
from tests.train.stream import Stream

SFT = {"kind": "sft", "start": "base", "train": "L"}
STEP = {
    "steps": 8,
    "batch_seconds": 3,
    "accumulation": 4,
    "learning_rate": 1e-3,
    "warmup_steps": 2,
    "checkpoint_every": 4,
    "max_quarantined_share": 0.1,
}
SHARDED = {**STEP, "sharding": "full"}
OPD = {"kind": "opd", "start": "base", "teacher": "teacher", "train": "P", "calibration_batches": 1}
PARTS = {"freeze": ["encoder"], "learning_rates": {"adapter": 3e-3}}
OBJECTIVE = {"top_k": 8, "max_new_tokens": 16}
STAGES = {
    "ctc": {"kind": "ctc", "start": "base", "train": "L", "optimization": STEP},
    "ctc-sharded": {"kind": "ctc", "start": "base", "train": "L", "optimization": SHARDED},
    "sft": {**SFT, "dev": "dev", "optimization": {**STEP, "evaluate_every": 4}},
    "sft-sharded": {
        **SFT,
        "dev": "dev",
        "optimization": {**SHARDED, "evaluate_every": 4, "activation_checkpointing": True},
    },
    "sft-muon-sharded": {
        "kind": "sft",
        "start": "base",
        "train": "L",
        "optimization": {**SHARDED, "optimizer": "muon"},
    },
    "sft-muon": {**SFT, "optimization": {**STEP, "optimizer": "muon"}},
    "labels": {"kind": "label", "start": "base", "audio": "P", "max_new_tokens": 16, "drop_failures": False},
    "opd": {**OPD, "objective": OBJECTIVE, "drafts": "labels", "optimization": STEP},
    "opd-sharded": {**OPD, "objective": OBJECTIVE, "optimization": SHARDED},
    "ctc-frozen": {"kind": "ctc", "start": "base", "train": "L", "optimization": {**STEP, **PARTS}},
    "opd-frozen": {**OPD, "objective": OBJECTIVE, "optimization": {**STEP, **PARTS}},
    "opd-frozen-sharded": {**OPD, "objective": OBJECTIVE, "optimization": {**SHARDED, **PARTS}},
    "sft-frozen-sharded": {**SFT, "optimization": {**SHARDED, "freeze": ["decoder", "embeddings"]}},
    # Two processes share three micro-batches: the second process has no second one.
    "opd-idle": {
        **OPD,
        "teacher_cache": "states",
        "objective": OBJECTIVE,
        "optimization": {**STEP, "steps": 4, "accumulation": 3},
    },
    "opd-idle-sharded": {**OPD, "objective": OBJECTIVE, "optimization": {**SHARDED, "steps": 4, "accumulation": 1}},
}
TRAINED = [name for name, stage in STAGES.items() if stage["kind"] != "label"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    vocabulary = small_vocabulary()
    student = small_student(vocabulary)
    settings = OptimizationSettings(steps=60, batch_seconds=10, learning_rate=1e-2)
    train(SupervisedStage(student, None), Stream([noise_examples(student)]), settings, folder / "student", seed=0)
    student.save(folder / "base")
    small_teacher(vocabulary).save(folder / "teacher")
    generator = np.random.default_rng(0)
    for name, count in (("train", 20), ("dev", 5)):
        rows = []
        for index in range(count):
            seconds = 0.6 + 0.05 * index
            soundfile.write(folder / f"{name}-{index}.wav", generator.normal(size=int(seconds * 16_000)) * 0.1, 16_000)
            text = TEXTS[index % 2]
            rows.append({"audio": f"{name}-{index}.wav", "text": text, "language": "English", "duration": seconds})
        (folder / f"{name}-7.wav").write_text("no audio")
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    document = {
        "name": "processes",
        "corpus": {"folder": str(folder)},
        "sets": {
            "L": {"manifest": "train.jsonl"},
            "P": {"manifest": "train.jsonl", "labels": "withheld"},
            "dev": {"manifest": "dev.jsonl"},
        },
        "models": {"base": {"pretrained": str(folder / "base")}, "teacher": {"pretrained": str(folder / "teacher")}},
        "stages": STAGES,
        "variants": {"base": "base", "opd": "opd", "opd-sharded": "opd-sharded"},
        "evaluation": {"sets": ["dev"], "max_new_tokens": 16, "samples": 100},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document))
    return folder / "recipe.yaml"


def run(recipe, output, processes, *options):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "arkasr", "run", str(recipe), "--output", str(output), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


def finished_run(recipe, name, processes):
    output = recipe.parent / name
    result = run(recipe, output, processes)
    assert result.returncode == 0, result.stderr
    return output


@pytest.fixture(scope="module")
def one_process(recipe):
    return finished_run(recipe, "one_process", 1)


@pytest.fixture(scope="module")
def two_processes(recipe):
    return finished_run(recipe, "two_processes", 2)


def metrics(folder, stage):
    return [json.loads(line) for line in (folder / "stages" / stage / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", TRAINED)
def test_two_processes_take_the_same_steps_as_one(one_process, two_processes, stage):
    expected, actual = metrics(one_process, stage), metrics(two_processes, stage)
    # Muon orthogonalises in bfloat16, which amplifies rounding differences of a gradient.
    tolerance = 1e-2 if "muon" in stage else 1e-5
    assert [line["step"] for line in actual] == list(range(1, STAGES[stage]["optimization"]["steps"] + 1))
    for one, two in zip(expected, actual, strict=True):
        for name in ("loss", "train/gradient_norm", "train/utterances", "dev/error_rate", "support/vuss_mean"):
            if name in one:
                # A norm sums squares over all weights, so rounding errors add up.
                allowed = 10 * tolerance if name == "train/gradient_norm" else tolerance
                assert two[name] == pytest.approx(one[name], rel=allowed), name
    if STAGES[stage]["kind"] == "opd":
        assert all(line["support/valid_share"] > 0 for line in expected)


@pytest.mark.parametrize("stage", TRAINED)
def test_two_processes_write_the_same_model_as_one(one_process, two_processes, stage):
    one, two = (
        load_file(run / "stages" / stage / "model" / "model.safetensors") for run in (one_process, two_processes)
    )
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert (value - two[name]).abs().max() < (2e-2 if "muon" in stage else 2e-4), name


@pytest.mark.parametrize("stage", [name for name in TRAINED if "frozen" in name])
def test_two_processes_train_all_parts_but_the_frozen_ones(recipe, two_processes, stage):
    model = two_processes / "stages" / stage / "model"
    before, after = (load_file(folder / "model.safetensors") for folder in (recipe.parent / "base", model))
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    settings = STAGES[stage]
    trained = set(trainable_parts(settings["kind"], ArkAsr.parts)) - set(settings["optimization"]["freeze"])
    prefixes = tuple(path for part in trained for path in ArkAsr.parts[part])
    assert changed == {name for name in before if name.startswith(prefixes)}


def test_answers_of_a_cached_teacher_are_used_again_and_removed_at_the_end(one_process, two_processes):
    for run in (one_process, two_processes):
        assert sum(line["teacher/cached_share"] for line in metrics(run, "opd-idle")) > 0
        assert not (run / "teacher-cache").exists()


def test_unreadable_audio_is_quarantined_once_on_whichever_process(one_process, two_processes):
    for run in (one_process, two_processes):
        (line,) = (run / "stages" / "opd" / "quarantine.jsonl").read_text().splitlines()
        assert json.loads(line)["id"] == "train-7.wav"
        assert "train-7.wav: not audio that can be read" in json.loads(line)["reason"]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_continues_on_another_number_of_processes(recipe, one_process, two_processes, before, after):
    """The folder is changed as if the run had been killed after step 4 of these stages."""
    output = recipe.parent / f"from-{before}-to-{after}"
    shutil.copytree(two_processes if before == 2 else one_process, output)
    unfinished = ["ctc-sharded", "sft", "opd", "opd-sharded", "opd-frozen", "opd-frozen-sharded"]
    for stage in unfinished:
        shutil.rmtree(output / "stages" / stage / "model")
        shutil.rmtree(output / "stages" / stage / "checkpoints" / "step-8")
    result = run(recipe, output, after, "--resume")
    assert result.returncode == 0, result.stderr
    for stage in unfinished:
        actual, expected = metrics(output, stage), metrics(one_process, stage)
        assert [line["step"] for line in actual] == list(range(1, 9))
        assert [line["loss"] for line in actual] == pytest.approx([line["loss"] for line in expected], rel=1e-5)


def test_labels_and_evaluations_of_two_processes_equal_those_of_one(one_process, two_processes):
    for name in ("stages/labels/labels.jsonl", "stages/labels/counts.json", "evaluations/base/dev.jsonl"):
        assert (two_processes / name).read_text() == (one_process / name).read_text()
    assert not list(two_processes.rglob("*parts"))
    rows = [json.loads((run / "results.json").read_text())["rows"] for run in (one_process, two_processes)]
    assert rows[0] == rows[1]


def test_an_error_of_the_first_process_ends_all_and_is_printed_once(recipe, two_processes):
    started = time.monotonic()
    result = run(recipe, two_processes, 2)
    assert result.returncode != 0
    errors = [line for line in result.stderr.splitlines() if line.startswith("arkasr:")]
    assert len(errors) == 1
    assert errors[0].endswith("already holds a run; add --resume to continue it, or choose another --output")
    # The launcher kills a process that waits for an ended one only after half a minute.
    assert time.monotonic() - started < 25
