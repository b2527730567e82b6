"""A model that has changed since the run used it is named; of a hub name the recorded commit is loaded."""

import json
import os
import shutil

import pytest
import torch

from arkasr.errors import InputError
from tests.models import small_student, small_vocabulary
from tests.run.inputs.corpus import FIRST_COMMIT, SECOND_COMMIT, check_and_record, recipe_of, session


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A hub that cannot be reached, with two commits of `org/base` in the cache; the file that says which is `main`."""
    from huggingface_hub import constants

    cached = tmp_path / "hub" / "models--org--base"
    shutil.copytree(folder / "base", cached / "snapshots" / FIRST_COMMIT)
    torch.manual_seed(7)
    other = small_student(small_vocabulary())
    torch.nn.init.ones_(next(other.model.parameters()))
    other.save(cached / "snapshots" / SECOND_COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(FIRST_COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cached / "refs" / "main"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda model: os.utime(model / "model.safetensors"), "model.safetensors was written at another time; restore"),
        (lambda model: (model / "config.json").write_text("{}"), "config.json has another size; restore"),
        (lambda model: (model / "model.safetensors").unlink(), "model.safetensors is gone; restore"),
        (lambda model: (model / "adapter.json").write_text("{}"), "adapter.json is new; remove"),
    ],
)
@pytest.mark.parametrize("name", ["base", "teacher"])
def test_a_model_that_was_trained_anew_is_named(folder, name, change, told):
    check_and_record(session(folder), "opd")
    change(folder / name)
    with pytest.raises(InputError) as refused:
        check_and_record(session(folder), "opd")
    assert str(refused.value).startswith(
        f"models.{name}: {folder / name}: is not what this run has used before: {told} it, or choose another --output"
    )


def test_of_a_hub_name_the_recorded_commit_is_loaded_wherever_the_branch_points(folder, hub):
    recipe = recipe_of(folder)
    recipe.models["base"] = recipe.models["base"].model_copy(update={"pretrained": "org/base"})
    inputs = session(folder, recipe)
    inputs.check_stage("sft")
    hub.write_text(SECOND_COMMIT)  # between the look and the loading
    loaded = [inputs._context.recognizer("base", 0)]
    inputs.record()
    assert json.loads((folder / "run" / "inputs.json").read_text())["models"]["base"] == {"commit": FIRST_COMMIT}
    for use_it in (lambda inputs: check_and_record(inputs, "opd"), lambda inputs: inputs.check_variant("base")):
        inputs = session(folder, recipe)
        use_it(inputs)
        assert inputs._context.model("base").revision == FIRST_COMMIT
        loaded.append(inputs._context.recognizer("base", 0))
    for recognizer in loaded:
        assert not (next(recognizer.model.parameters()) == 1).all()
    elsewhere = session(folder, recipe)
    elsewhere.path.unlink()
    elsewhere = session(folder, recipe)
    check_and_record(elsewhere)
    assert (next(elsewhere._context.recognizer("base", 0).model.parameters()) == 1).all()
