"""A run that is resumed with changed inputs stops before it computes."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import soundfile
import yaml

from arkasr.errors import InputError
from arkasr.progress import Progress
from arkasr.recipe.load import parse
from arkasr.recipe.settings import Recipe
from arkasr.run import resumable_work as resumable_work_module
from arkasr.run import run as run_module
from arkasr.run.run import calibrate_stage, run_one_stage, run_recipe
from tests.run.inputs.corpus import check_and_record, edit_row, recipe_of, session, set_file_times


def test_a_run_resumed_with_changed_data_stops_before_it_computes(folder):
    recipe, path = recipe_of(folder), folder / "run"
    run_one_stage(recipe, "sft", path, resume=False, progress=Progress())
    assert set(json.loads((path / "inputs.json").read_text())["models"]) == {"base"}
    edit_row(folder / "train.jsonl", 0, text="another label")
    with pytest.raises(InputError, match=r"sets\.L: .*the text of '0' has changed"):
        run_one_stage(recipe, "again", path, resume=True, progress=Progress())
    assert not (path / "stages" / "again").exists()
    edit_row(folder / "train.jsonl", 0, text="the red book")
    run_recipe(recipe, path, resume=True, progress=Progress())
    before = (path / "results.json").read_bytes()
    (path / "evaluations" / "again" / "dev.jsonl").unlink()
    edit_row(folder / "dev.jsonl", 0, text="another reference")
    with pytest.raises(InputError, match=r"sets\.dev: .*the text of '0' has changed"):
        run_recipe(recipe, path, resume=True, progress=Progress())
    assert (path / "results.json").read_bytes() == before
    assert (path / "evaluations" / "base" / "dev.jsonl").exists()


def test_a_run_without_a_record_continues_and_a_refused_set_is_not_recorded(folder):
    recipe, path = recipe_of(folder), folder / "run"
    run_one_stage(recipe, "sft", path, resume=False, progress=Progress())
    (path / "inputs.json").unlink()
    edit_row(folder / "train.jsonl", 0, text=None)
    with pytest.raises(InputError, match="0 has no `text`, and this stage learns from labels"):
        run_one_stage(recipe, "again", path, resume=True, progress=Progress())
    assert not (path / "inputs.json").exists()
    edit_row(folder / "train.jsonl", 0, text="corrected")
    run_one_stage(recipe, "again", path, resume=True, progress=Progress())
    assert set(json.loads((path / "inputs.json").read_text())["sets"]) == {"L"}


class KilledError(BaseException):
    """Ends a run at once."""


def kill_after(monkeypatch, owner, name, run):
    """Kill a run after the first call of a function has returned."""
    function = getattr(owner, name)

    def call_and_kill(*arguments, **keywords):
        function(*arguments, **keywords)
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, call_and_kill)
        with pytest.raises(KilledError):
            run()


def test_the_transcripts_of_a_killed_run_are_not_completed_by_another_model(folder, monkeypatch):
    document = recipe_of(folder).model_dump(mode="json")
    recipe, path = parse(Recipe, document | {"stages": {}, "variants": {"base": "base"}}, "test"), folder / "run"
    monkeypatch.setattr(resumable_work_module, "MAX_PART_UTTERANCES", 2)
    begin = partial(run_recipe, recipe, path, resume=False, progress=Progress())
    kill_after(monkeypatch, resumable_work_module.ResumableWork, "do", begin)
    assert [part.name for part in path.glob("evaluations/base/dev.parts/*")] == ["0-2.jsonl"]
    os.utime(folder / "base" / "model.safetensors")
    with pytest.raises(InputError, match=r"models\.base: .*model\.safetensors was written at another time"):
        run_recipe(recipe, path, resume=True, progress=Progress())
    set_file_times(folder / "base")
    run_recipe(recipe, path, resume=True, progress=Progress())


def label_recipe_of(folder):
    """A recipe with a label stage and a stage that trains on the labels."""
    document = recipe_of(folder).model_dump(mode="json")
    label = {"kind": "label", "start": "teacher", "audio": "P", "drop_failures": False, "max_new_tokens": 4}
    document["stages"] = {"label": label, "learn": document["stages"]["sft"] | {"train": "label"}}
    document["evaluation"]["sets"] = []
    return parse(Recipe, document | {"variants": {}}, "test")


def test_training_on_labels_is_refused_if_the_audio_has_changed_since_labelling(folder, monkeypatch):
    recipe, path = label_recipe_of(folder), folder / "run"
    begin = partial(run_recipe, recipe, path, resume=False, progress=Progress())
    kill_after(monkeypatch, run_module, "run_label_stage", begin)
    assert (path / "stages" / "label" / "labels.jsonl").exists()
    soundfile.write(folder / "train-1.wav", np.random.default_rng(1).normal(size=16_000) * 0.1, 16_000)
    with pytest.raises(InputError, match=r"sets\.P: .*the audio file of '1' was written at another time"):
        run_recipe(recipe, path, resume=True, progress=Progress())
    assert not (path / "stages" / "learn").exists()


def test_a_teacher_that_cannot_be_loaded_is_not_recorded(folder):
    recipe, path = label_recipe_of(folder), folder / "run"
    weights = folder / "teacher" / "model.safetensors"
    weights.rename(folder / "away")
    with pytest.raises(InputError, match=r"model .*teacher"):
        run_recipe(recipe, path, resume=False, progress=Progress())
    assert not (path / "inputs.json").exists()
    (folder / "away").rename(weights)
    run_recipe(recipe, path, resume=True, progress=Progress())
    assert set(json.loads((path / "inputs.json").read_text())["models"]) == {"base", "teacher"}


def test_a_test_set_may_be_corrected_until_a_variant_is_evaluated_on_it(folder):
    recipe, path = recipe_of(folder), folder / "run"
    edit_row(folder / "train.jsonl", 0, text=None)
    with pytest.raises(InputError, match="0 has no `text`, and this stage learns from labels"):
        run_recipe(recipe, path, resume=False, progress=Progress())
    edit_row(folder / "train.jsonl", 0, text="the red book")
    edit_row(folder / "dev.jsonl", 0, text="the red boot")
    run_recipe(recipe, path, resume=True, progress=Progress())
    assert "dev" in json.loads((path / "inputs.json").read_text())["sets"]


def test_calibrate_checks_its_inputs_and_writes_nothing(folder):
    recipe, path = recipe_of(folder), folder / "run"
    calibrate_stage(recipe, "opd", path)
    assert not path.exists()
    check_and_record(session(folder), "opd")
    os.utime(folder / "teacher" / "model.safetensors")
    with pytest.raises(InputError, match=r"models\.teacher: .*model\.safetensors was written at another time"):
        calibrate_stage(recipe, "opd", path)


def test_two_processes_print_one_error_for_a_changed_input(folder):
    document = recipe_of(folder).model_dump(mode="json")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "arkasr"]
    command += ["run", str(folder / "recipe.yaml"), "--output", str(folder / "run"), "--resume"]

    def run():
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)

    first = run()
    assert first.returncode == 0, first.stderr
    shutil.rmtree(folder / "run" / "stages" / "opd")
    os.utime(folder / "train-2.wav")
    finished = run()
    assert finished.returncode != 0
    errors = [line for line in finished.stderr.splitlines() if line.startswith("arkasr: ")]
    assert len(errors) == 1
    assert "sets.P: " in errors[0]
    assert "the audio file of '2' was written at another time" in errors[0]
