"""Every kind of bad input gives one line that names it, and exit code 2."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.command import arkasr


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
        (["data", "prepare", "an4"], "give the folder of the corpus with --from DIR"),
        (["run"], "Missing argument 'recipe'"),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2(arguments, message, cache):
    finished = arkasr(*arguments, cache=cache)
    assert finished.returncode == 2
    assert message in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize("deleted", ["model.safetensors", "processor_config.json", "config.json"])
def test_an_incomplete_model_folder_is_named_in_one_line(smoke, cache, tmp_path, deleted):
    folder, _ = smoke
    model = tmp_path / "model"
    shutil.copytree(folder / "stages" / "base" / "model", model)
    (model / deleted).unlink()
    manifest = next(cache.glob("synthetic-*/en-clean.jsonl"))
    finished = arkasr("evaluate", manifest, "--model", model, cache=cache)
    assert finished.returncode == 2
    assert f"model {model}: " in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1


def test_weights_in_a_pickle_are_refused(smoke, cache, tmp_path):
    folder, _ = smoke
    model = tmp_path / "model"
    shutil.copytree(folder / "stages" / "base" / "model", model)
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    finished = arkasr("evaluate", next(cache.glob("synthetic-*/en-clean.jsonl")), "--model", model, cache=cache)
    assert finished.returncode == 2
    assert "safetensors" in finished.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sets.en-clean.language=null", "sets.en-clean: its languages need different normalisers or units"),
        ("sets.zh-net.labels=withheld", "sets.zh-net: no utterance has a text to score against"),
        ("sets.zh-net.first=9999", "the recipe asks for the first 9999"),
        ("stages.teacher-ctc.optimization.batch_seconds=2", "leave them out with the set's `max_seconds`"),
    ],
)
def test_an_unsuitable_set_is_refused_before_training(cache, tmp_path, override, message):
    extra = ["--set", "sets.en-clean.manifest=train.jsonl"] if "language" in override else []
    folder = tmp_path / "run"
    finished = arkasr("run", "recipes/smoke.yaml", "--output", folder, "--set", override, *extra, cache=cache)
    assert finished.returncode == 2
    *progress, error = finished.stderr.strip().splitlines()
    assert message in error
    assert progress in ([], ["1 of 16: teacher-ctc (seed 0)"])
    assert not (folder / "stages").exists()


def test_missing_variables_of_the_launcher_are_named(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    finished = arkasr("run", "recipes/smoke.yaml", "--output", tmp_path / "run", cache=cache)
    assert finished.returncode == 2
    assert "WORLD_SIZE=2 without RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: start with torchrun" in finished.stderr
