"""A small recipe is run, resumed, killed and preempted from the command line."""

import json
import os
import re
import signal
import subprocess
import time

from arkasr.data.manifests.manifest import read_rows
from tests.cli.command import ARKASR, arkasr

VARIANTS = ["teacher", "base", "base+sft", "base+opd", "base+td", "base+td+opd"]
SETS = ["en-clean", "en-other", "zh-read", "zh-meeting", "zh-net"]


def test_a_recipe_runs_from_the_command_line_to_results_and_report(smoke):
    folder, output = smoke
    results = json.loads((folder / "results.json").read_text())
    assert results["recipe"] == "smoke"
    assert results["seeds"] == [0]
    assert [(row["variant"], row["set"]) for row in results["rows"]] == [
        (variant, name) for variant in VARIANTS for name in SETS
    ]
    for row in results["pooled"]:
        parts = [part for part in results["rows"] if part["variant"] == row["variant"]]
        assert row["errors"] == sum(part["errors"] for part in parts)
        assert row["ci95"][0] <= row["rate"] <= row["ci95"][1]
    assert [row["variant"] for row in results["pooled"]] == VARIANTS
    for row in results["rows"]:
        assert row["metric"] == ("wer" if row["set"].startswith("en") else "cer")
        assert row["rate"] == row["errors"] / row["reference_tokens"]
        assert row["utterances"] == 4
        assert row["failed"] == 0
    assert {(row["a"], row["b"]) for row in results["comparisons"]} == {
        ("base+td+opd", "base"),
        ("base+td+opd", "base+sft"),
    }
    assert [row["variant"] for row in results["support"]] == ["base", "td"]
    for row in results["support"]:
        assert row["vuss_min"] <= row["vuss_mean"] <= row["vuss_max"] <= 16
        assert 0 <= row["overlap_ratio"] <= 1
    assert "base+td+opd" in output
    assert str(folder / "report.html") in output
    assert "base+td+opd" in (folder / "report.html").read_text()
    assert json.loads((folder / "environment.json").read_text())["torch"]


def test_every_stage_writes_its_model_and_logs_every_step(smoke):
    folder, _ = smoke
    stages = sorted(stage.name for stage in (folder / "stages").iterdir())
    assert len(stages) == 10
    for name in stages:
        stage = folder / "stages" / name
        if name.startswith("labels"):
            assert (stage / "labels.jsonl").exists()
            assert json.loads((stage / "counts.json").read_text())["kept"] == 48
            continue
        assert (stage / "model" / "model.safetensors").exists()
        assert (stage / "model" / "tokenizer.json").exists()
        steps = [line["step"] for line in read_rows(stage / "metrics.jsonl")]
        assert steps == list(range(1, len(steps) + 1))
        assert any(stage.glob("tensorboard/events*"))
    pickles = [file for file in folder.rglob("*") if file.suffix in {".pt", ".pth", ".bin", ".pkl"}]
    assert not pickles


def test_transcripts_keep_every_field_of_the_manifest(smoke):
    folder, _ = smoke
    rows = read_rows(folder / "evaluations" / "base" / "en-clean.jsonl")
    assert len(rows) == 4
    assert {"audio", "text", "speaker", "condition", "pred_text", "pred_text_raw", "errors"} <= rows[0].keys()


def test_a_finished_run_is_neither_repeated_nor_overwritten(smoke, cache):
    folder, _ = smoke
    times = {file: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")}
    refused = arkasr("run", "recipes/smoke.yaml", "--output", folder, cache=cache)
    assert refused.returncode == 2
    assert "already holds a run; add --resume" in refused.stderr
    resumed = arkasr("run", "recipes/smoke.yaml", "--output", folder, "--resume", cache=cache)
    assert resumed.returncode == 0
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")} == times
    other = arkasr("run", "recipes/smoke.yaml", "--output", folder, "--resume", "--set", "seeds=[1]", cache=cache)
    assert other.returncode == 2
    assert "seeds differs from the recipe given" in other.stderr


def assert_equal_models(folder, expected):
    for model in sorted((expected / "stages").glob("*/model/model.safetensors")):
        assert (folder / model.relative_to(expected)).read_bytes() == model.read_bytes(), model


def test_a_killed_and_resumed_run_gives_the_same_models_and_results(smoke, cache, tmp_path):
    undisturbed, _ = smoke
    folder = tmp_path / "killed"
    checkpoints = ["--set", "stages.base.optimization.checkpoint_every=2"]
    command = [*ARKASR, "run", "recipes/smoke.yaml", "--output", str(folder), *checkpoints]
    process = subprocess.Popen(command, env=os.environ | {"ARKASR_CACHE": str(cache)}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (folder / "stages" / "base" / "checkpoints" / "step-2").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    second = arkasr("run", "recipes/smoke.yaml", "--output", folder, "--resume", *checkpoints, cache=cache)
    assert second.returncode == 2
    assert second.stderr.startswith(f"arkasr: {folder}: another run uses this folder (process {process.pid} on ")
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = arkasr("run", "recipes/smoke.yaml", "--output", folder, "--resume", *checkpoints, cache=cache)
    assert finished.returncode == 0, finished.stderr
    assert_equal_models(folder, undisturbed)
    assert (folder / "results.json").read_bytes() == (undisturbed / "results.json").read_bytes()
    environment = json.loads((folder / "environment.json").read_text())
    (killed,) = environment["earlier_sittings"]
    assert killed["torch"] == environment["torch"]
    assert 0 < killed["seconds"] < environment["seconds"]


def test_a_recipe_of_large_models_runs_with_the_smoke_option(cache, tmp_path):
    planned = arkasr("plan", "recipes/ark-asr-0.6b.yaml", cache=cache)
    assert planned.returncode == 0
    assert "opd-after-td" in planned.stdout
    finished = arkasr("run", "recipes/ark-asr-0.6b.yaml", "--smoke", "--output", tmp_path / "small", cache=cache)
    assert finished.returncode == 0, finished.stderr
    results = json.loads((tmp_path / "small" / "results.json").read_text())
    assert {row["set"] for row in results["rows"]} >= {"aishell1", "libri-other"}


def test_sigusr1_ends_a_run_after_a_checkpoint_with_one_line(smoke, cache, tmp_path):
    undisturbed, _ = smoke
    folder = tmp_path / "preempted"
    command = [*ARKASR, "run", "recipes/smoke.yaml", "--output", str(folder)]
    environment = os.environ | {"ARKASR_CACHE": str(cache)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    log = folder / "stages" / "base" / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGUSR1
    assert re.search(r"^arkasr: stopped after step \d, which is in a checkpoint; continue with --resume$", errors, re.M)
    assert len(list((folder / "stages" / "base" / "checkpoints").iterdir())) == 1
    finished = arkasr("run", "recipes/smoke.yaml", "--output", folder, "--resume", cache=cache)
    assert finished.returncode == 0, finished.stderr
    assert_equal_models(folder, undisturbed)
