"""A small recipe from the command line: run, resumed, killed and preempted."""

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
    folder, printed = smoke
    results = json.loads((folder / "results.json").read_text())
    assert results["recipe"] == "smoke"
    assert results["seeds"] == [0]
    assert [(row["variant"], row["set"]) for row in results["rows"]] == [(v, s) for v in VARIANTS for s in SETS]
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
    assert "base+td+opd" in printed
    assert str(folder / "report.html") in printed
    assert "base+td+opd" in (folder / "report.html").read_text()
    assert json.loads((folder / "environment.json").read_text())["torch"]


def test_every_stage_leaves_a_model_that_loads_and_steps_that_were_logged(smoke):
    folder, _ = smoke
    stages = sorted(place.name for place in (folder / "stages").iterdir())
    assert len(stages) == 10
    for name in stages:
        place = folder / "stages" / name
        if name.startswith("labels"):
            assert (place / "labels.jsonl").exists()
            assert json.loads((place / "counts.json").read_text())["kept"] == 48
            continue
        assert (place / "model" / "model.safetensors").exists()
        assert (place / "model" / "tokenizer.json").exists()
        steps = [line["step"] for line in read_rows(place / "metrics.jsonl")]
        assert steps == list(range(1, len(steps) + 1))
        assert any(place.glob("tensorboard/events*"))
    pickles = [file for file in folder.rglob("*") if file.suffix in {".pt", ".pth", ".bin", ".pkl"}]
    assert not pickles


def test_transcripts_keep_every_field_of_the_manifest(smoke):
    folder, _ = smoke
    rows = read_rows(folder / "evaluations" / "base" / "en-clean.jsonl")
    assert len(rows) == 4
    assert {"audio", "text", "speaker", "condition", "pred_text", "pred_text_raw", "errors"} <= rows[0].keys()


def test_a_finished_run_is_not_redone_and_not_overwritten(smoke, cache):
    folder, _ = smoke
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")}
    refused = arkasr("run", "recipes/smoke.yaml", "--output", folder, cache=cache)
    assert refused.returncode == 2
    assert "already holds a run; add --resume" in refused.stderr
    resumed = arkasr("run", "recipes/smoke.yaml", "--output", folder, "--resume", cache=cache)
    assert resumed.returncode == 0
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")} == before
    other = arkasr("run", "recipes/smoke.yaml", "--output", folder, "--resume", "--set", "seeds=[1]", cache=cache)
    assert other.returncode == 2
    assert "seeds differs from the recipe given" in other.stderr


def test_a_killed_run_continues_to_the_same_models_and_results(smoke, cache, tmp_path):
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
    for place in sorted((undisturbed / "stages").glob("*/model/model.safetensors")):
        again = folder / place.relative_to(undisturbed)
        assert again.read_bytes() == place.read_bytes(), place
    assert (folder / "results.json").read_bytes() == (undisturbed / "results.json").read_bytes()
    environment = json.loads((folder / "environment.json").read_text())
    killed = environment["earlier_sittings"]
    assert [sitting["torch"] for sitting in killed] == [environment["torch"]]
    assert 0 < killed[0]["seconds"] < environment["seconds"]


def test_any_recipe_can_be_tried_at_toy_size(cache, tmp_path):
    planned = arkasr("plan", "recipes/ark-asr-0.6b.yaml", cache=cache)
    assert planned.returncode == 0
    assert "opd-after-td" in planned.stdout
    finished = arkasr("run", "recipes/ark-asr-0.6b.yaml", "--smoke", "--output", tmp_path / "small", cache=cache)
    assert finished.returncode == 0, finished.stderr
    results = json.loads((tmp_path / "small" / "results.json").read_text())
    assert {row["set"] for row in results["rows"]} >= {"aishell1", "libri-other"}


def test_a_run_that_is_to_be_preempted_ends_behind_a_checkpoint_and_says_so(smoke, cache, tmp_path):
    undisturbed, _ = smoke
    folder = tmp_path / "preempted"
    command = [*ARKASR, "run", "recipes/smoke.yaml", "--output", str(folder)]
    environment = os.environ | {"ARKASR_CACHE": str(cache)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    log = folder / "stages" / "base" / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGUSR1
    assert re.search(r"^arkasr: stopped after step \d, which is in a checkpoint; continue with --resume$", said, re.M)
    assert len(list((folder / "stages" / "base" / "checkpoints").iterdir())) == 1
    finished = arkasr("run", "recipes/smoke.yaml", "--output", folder, "--resume", cache=cache)
    assert finished.returncode == 0, finished.stderr
    for place in sorted((undisturbed / "stages").glob("*/model/model.safetensors")):
        assert (folder / place.relative_to(undisturbed)).read_bytes() == place.read_bytes(), place
