"""If a model has changed since the run used it, the error names it. For a hub name the recorded commit is loaded."""

import json
import os
import shutil

import pytest
import torch

from arkasr.errors import InputError
from arkasr.recipe.load import parse
from arkasr.recipe.presets import merged
from arkasr.recipe.settings import Recipe
from arkasr.recognizers.load import load_recognizer
from arkasr.recognizers.tokenizer import train_base_vocabulary
from arkasr.recognizers.whisper import build_whisper
from tests.models import SMALL_WHISPER, small_student, small_vocabulary
from tests.run.inputs.corpus import FIRST_COMMIT, SECOND_COMMIT, check_and_record, recipe_of, session


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """Two commits of `org/base` in the cache of a hub that is offline; returns the file that selects `main`."""
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
    ("change", "message"),
    [
        (lambda model: os.utime(model / "model.safetensors"), "model.safetensors was written at another time; restore"),
        (lambda model: (model / "config.json").write_text("{}"), "config.json has another size; restore"),
        (lambda model: (model / "model.safetensors").unlink(), "model.safetensors is gone; restore"),
        (lambda model: (model / "adapter.json").write_text("{}"), "adapter.json is new; remove"),
    ],
)
@pytest.mark.parametrize("name", ["base", "teacher"])
def test_a_changed_model_is_refused_and_the_message_names_the_file(folder, name, change, message):
    check_and_record(session(folder), "opd")
    change(folder / name)
    with pytest.raises(InputError) as refused:
        check_and_record(session(folder), "opd")
    assert str(refused.value).startswith(
        f"models.{name}: {folder / name}: has changed since this run used it: {message} it, or choose another --output"
    )


PARTS = {
    "models.base.encoder": lambda name: {"models": {"base": {"preset": "ark-asr-tiny", "encoder": name}}},
    "models.base.decoder": lambda name: {
        "models": {"base": {"preset": "ark-asr-tiny", "decoder": name}},
        "tokenizer": None,
    },
    "tokenizer.pruned_from": lambda name: {"tokenizer": {"texts": "L", "vocab_size": None, "pruned_from": name}},
}


def recipe_with_new_student(folder, changes):
    document = recipe_of(folder).model_dump(mode="json")
    document["models"]["base"] = {"preset": "ark-asr-tiny"}
    document["tokenizer"] = {"texts": "L", "vocab_size": 300}
    return parse(Recipe, merged(document, changes), "test")


@pytest.mark.parametrize("key", PARTS)
def test_a_changed_part_of_a_new_model_is_refused(folder, whisper_folder, key):
    shutil.copytree(whisper_folder, folder / "whisper")
    recipe = recipe_with_new_student(folder, PARTS[key](str(folder / "whisper")))
    check_and_record(session(folder, recipe))
    (folder / "whisper" / "config.json").write_text("{}")
    with pytest.raises(InputError) as refused:
        check_and_record(session(folder, recipe))
    assert str(refused.value).startswith(
        f"{key}: {folder / 'whisper'}: has changed since this run used it: config.json has another size"
    )


@pytest.mark.parametrize("key", PARTS)
def test_the_recorded_commit_of_a_part_is_loaded(folder, whisper_folder, hub, key):
    """The branch moves to a commit with another Whisper model, whose encoder and vocabulary are smaller."""
    repository = hub.parents[2] / "models--org--whisper"
    shutil.copytree(whisper_folder, repository / "snapshots" / FIRST_COMMIT)
    other = build_whisper(SMALL_WHISPER | {"d_model": 32}, train_base_vocabulary(["the"] * 9, 258))
    other.save(repository / "snapshots" / SECOND_COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(FIRST_COMMIT)
    recipe = recipe_with_new_student(folder, PARTS[key]("org/whisper"))
    check_and_record(session(folder, recipe))
    (repository / "refs" / "main").write_text(SECOND_COMMIT)
    inputs = session(folder, recipe)
    check_and_record(inputs)
    if key == "models.base.decoder":  # a Whisper model has no decoder to load
        assert inputs._context.model("base").decoder_revision == FIRST_COMMIT
        return
    loaded = inputs._context.recognizer("base", 0)
    if key == "tokenizer.pruned_from":
        recorded = load_recognizer(whisper_folder)
        tokens = [
            recognizer.tokenizer.convert_ids_to_tokens(recognizer.transcript_ids("the red book")[:-1].tolist())
            for recognizer in (loaded, recorded, other)
        ]
        assert tokens[0] == tokens[1] != tokens[2]
    else:
        assert loaded.model.config.whisper_config.d_model == 48


def test_the_recorded_commit_of_a_hub_name_is_loaded_after_the_branch_has_moved(folder, hub):
    recipe = recipe_of(folder)
    recipe.models["base"] = recipe.models["base"].model_copy(update={"pretrained": "org/base"})
    inputs = session(folder, recipe)
    inputs.check_stage("sft")
    hub.write_text(SECOND_COMMIT)  # after the check and before loading
    loaded = [inputs._context.recognizer("base", 0)]
    inputs.record()
    assert json.loads((folder / "run" / "inputs.json").read_text())["models"]["base"] == {"commit": FIRST_COMMIT}
    for check in (lambda inputs: check_and_record(inputs, "opd"), lambda inputs: inputs.check_variant("base")):
        inputs = session(folder, recipe)
        check(inputs)
        assert inputs._context.model("base").revision == FIRST_COMMIT
        loaded.append(inputs._context.recognizer("base", 0))
    for recognizer in loaded:
        assert not (next(recognizer.model.parameters()) == 1).all()
    session(folder, recipe).path.unlink()
    without_record = session(folder, recipe)
    check_and_record(without_record)
    assert (next(without_record._context.recognizer("base", 0).model.parameters()) == 1).all()
