"""The command line from outside: a whole small recipe, resumed, and every kind of bad input."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from arkasr.data.manifests.manifest import read_rows, write_manifest

ARKASR = [sys.executable, "-m", "arkasr"]
VARIANTS = ["teacher", "base", "base+sft", "base+opd", "base+td", "base+td+opd"]
SETS = ["en-clean", "en-other", "zh-read", "zh-meeting", "zh-net"]
ROOT = Path(__file__).resolve().parents[1]


def arkasr(*arguments, cache):
    environment = os.environ | {"ARKASR_CACHE": str(cache), "COLUMNS": "100"}
    command = [*ARKASR, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, cache):
    """The folder of a finished run of recipes/smoke.yaml, and what the command printed."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    finished = arkasr("run", "recipes/smoke.yaml", "--output", folder, cache=cache)
    assert finished.returncode == 0, finished.stderr
    return folder, finished.stdout


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
    assert second.stderr.startswith(f"arkasr: {folder}: another run is at work here (process {process.pid} on ")
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


def test_calibrate_says_what_speaks_against_opd(smoke, cache):
    folder, _ = smoke
    finished = arkasr("calibrate", "recipes/smoke.yaml", "--output", folder, "--stage", "opd", cache=cache)
    assert finished.returncode == 0, finished.stderr
    assert "support/vuss_mean" in finished.stdout
    assert "doubtful: " in finished.stdout


def clean_english(cache):
    """The smoke run's test set; another one in the cache has a single utterance, which is nothing to test on."""
    return max(cache.glob("synthetic-*/en-clean.jsonl"), key=lambda path: path.stat().st_size)


def test_a_model_can_be_evaluated_labelled_with_and_compared(smoke, cache, tmp_path):
    folder, _ = smoke
    manifest = clean_english(cache)
    outputs = []
    for stage in ("base", "opd"):
        outputs.append(tmp_path / f"{stage}.jsonl")
        model = folder / "stages" / f"{stage}" / "model"
        finished = arkasr(
            "evaluate", manifest, "--model", model, "-o", outputs[-1], "--max-new-tokens", 12, cache=cache
        )
        assert finished.returncode == 0, finished.stderr
        assert "normalizer basic@1" in finished.stdout
    compared = arkasr("compare", *outputs, cache=cache)
    assert compared.returncode == 0, compared.stderr
    assert "permutation" in compared.stdout
    labelled = arkasr(
        "label",
        manifest,
        "--teacher",
        folder / "stages" / "teacher" / "model",
        "-o",
        tmp_path / "labels.jsonl",
        "--max-new-tokens",
        12,
        cache=cache,
    )
    assert labelled.returncode == 0, labelled.stderr
    assert "kept=" in labelled.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "absent.yaml"], "absent.yaml: no such file"),
        (["run", "recipes/smoke.yaml", "--set", "stages.opd.objective.topk=3"], "did you mean 'top_k'?"),
        (["train", "opd", "recipes/smoke.yaml"], "choose with --stage: opd, opd-after-td"),
        (["train", "ctc", "recipes/smoke.yaml", "--stage", "nothing"], "no stage of kind ctc called 'nothing'"),
        (["evaluate", "absent.jsonl", "--model", "x"], "absent.jsonl: no such manifest"),
        (["evaluate", "absent.jsonl", "--model", "x", "--normalizer", "basik"], "did you mean 'basic'?"),
        (["compare", "absent.jsonl"], "give two or more files"),
        (["data", "check", "absent.jsonl"], "absent.jsonl: no such manifest"),
        (["data", "index", "absent.jsonl"], "absent.jsonl: no such manifest"),
        (["data", "shards", "absent.tar", "-o", "absent.jsonl"], "absent.tar: no such tar or folder"),
        (["nonsense"], "nonsense"),
        (["train", "otd", "recipes/smoke.yaml"], "train otd: did you mean 'opd'?"),
        (["run", "recipes/smoke.yaml", "--output", "README.md"], "README.md"),
        (["data", "prepare", "an4"], "say where the corpus is with --from DIR"),
        (["run"], "Missing argument 'recipe'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, cache):
    finished = arkasr(*arguments, cache=cache)
    assert finished.returncode == 2
    assert message in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize("lost", ["model.safetensors", "processor_config.json", "config.json"])
def test_a_model_folder_that_is_not_whole_is_named_in_one_line(smoke, cache, tmp_path, lost):
    folder, _ = smoke
    model = tmp_path / "model"
    shutil.copytree(folder / "stages" / "base" / "model", model)
    (model / lost).unlink()
    manifest = next(cache.glob("synthetic-*/en-clean.jsonl"))
    finished = arkasr("evaluate", manifest, "--model", model, cache=cache)
    assert finished.returncode == 2
    assert f"model {model}: " in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1


def test_weights_in_a_pickle_are_not_read(smoke, cache, tmp_path):
    folder, _ = smoke
    model = tmp_path / "model"
    shutil.copytree(folder / "stages" / "base" / "model", model)
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    finished = arkasr("evaluate", next(cache.glob("synthetic-*/en-clean.jsonl")), "--model", model, cache=cache)
    assert finished.returncode == 2
    assert "safetensors" in finished.stderr


def test_a_manifest_of_two_languages_is_scored_in_each(smoke, cache, tmp_path):
    folder, _ = smoke
    corpus = clean_english(cache).parent
    rows = read_rows(corpus / "en-clean.jsonl") + read_rows(corpus / "zh-read.jsonl")
    write_manifest(corpus / "both.jsonl", rows)
    outputs = [tmp_path / "base.jsonl", tmp_path / "opd.jsonl"]
    for output in outputs:
        model = folder / "stages" / output.stem / "model"
        arguments = ["--model", model, "-o", output, "--max-new-tokens", 12]
        finished = arkasr("evaluate", corpus / "both.jsonl", *arguments, cache=cache)
        assert finished.returncode == 0, finished.stderr
        lines = finished.stdout.splitlines()
        assert [line[:13] for line in lines[-2:]] == ["English: wer ", "Chinese: cer "]
    compared = arkasr("compare", *outputs, cache=cache)
    assert compared.returncode == 0, compared.stderr
    differences = [line for line in compared.stdout.splitlines() if "permutation" in line]
    assert [line.split(": ")[1] for line in differences] == ["English", "Chinese"]
    shared = [f"{sum(row['language'] == language for row in rows)} utterances" for language in ("English", "Chinese")]
    assert all(count in line for count, line in zip(shared, differences, strict=True))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sets.en-clean.language=null", "sets.en-clean: its languages are not scored alike"),
        ("sets.zh-net.labels=withheld", "sets.zh-net: no utterance has a text to score against"),
        ("sets.zh-net.first=9999", "the recipe asks for the first 9999"),
        ("stages.teacher-ctc.optimization.batch_seconds=2", "leave them out with the set's `max_seconds`"),
    ],
)
def test_a_set_that_will_not_do_is_found_before_anything_is_trained(cache, tmp_path, override, message):
    extra = ["--set", "sets.en-clean.manifest=train.jsonl"] if "language" in override else []
    folder = tmp_path / "run"
    finished = arkasr("run", "recipes/smoke.yaml", "--output", folder, "--set", override, *extra, cache=cache)
    assert finished.returncode == 2
    assert message in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1
    assert not (folder / "stages").exists()


def test_processes_that_cannot_be_found_are_said_to_be_missing(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    finished = arkasr("run", "recipes/smoke.yaml", "--output", tmp_path / "run", cache=cache)
    assert finished.returncode == 2
    assert "WORLD_SIZE=2 without RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: start with torchrun" in finished.stderr


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


def test_the_commands_of_the_readme_run_as_they_stand(smoke, cache, tmp_path, monkeypatch):
    """Every `arkasr` line of the README, with the reader's own files put in the places of its examples."""
    folder, _ = smoke
    readme = (ROOT / "README.md").read_text()
    fenced = "".join(readme.split("```")[1::2])
    commands = [line.split("#")[0].strip() for line in fenced.splitlines() if line.startswith("arkasr ")]
    assert len(commands) >= 6
    corpus = next(cache.glob("synthetic-*/en-clean.jsonl")).parent
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    shutil.copytree(corpus, tmp_path, dirs_exist_ok=True)
    shutil.copyfile(corpus / "en-clean.jsonl", tmp_path / "test.jsonl")
    shutil.copyfile(ROOT / "recipes" / "smoke.yaml", tmp_path / "my-recipe.yaml")
    shutil.copyfile(sorted(corpus.rglob("*.flac"))[0], tmp_path / "meeting.mp3")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(folder)
    shutil.copyfile(folder / "evaluations" / "base+sft" / "en-clean.jsonl", tmp_path / "sft.jsonl")
    monkeypatch.chdir(tmp_path)
    for command in commands:
        finished = arkasr(*shlex.split(command)[1:], cache=cache)
        assert finished.returncode == 0, f"{command}\n{finished.stderr}"
    results = json.loads((tmp_path / "runs" / "smoke" / "results.json").read_text())
    assert results["seeds"] == [0, 1, 2]
    assert len(results["rows"]) == 5 + 5 * 5 * 3
