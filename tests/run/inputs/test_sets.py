"""If a set has changed since the run used it, the error names the set, the change and the remedy."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from arkasr.data.manifests import identity as identity_module
from arkasr.data.manifests.indexing import build_index
from arkasr.errors import InputError
from arkasr.recipe.load import parse
from arkasr.recipe.settings import Recipe
from arkasr.run import inputs as inputs_module
from tests.run.inputs.corpus import check_and_record, edit_row, recipe_of, rows_of, session, set_file_times, write_rows

CHANGES = {
    "the text of '2' has changed": lambda folder: edit_row(folder / "train.jsonl", 2, text="the red boot"),
    "the language of '1' has changed": lambda folder: edit_row(folder / "train.jsonl", 1, language="zh"),
    "the speaker of '1' has changed": lambda folder: edit_row(folder / "train.jsonl", 1, speaker="x"),
    "the `duration` of '1' has changed": lambda folder: edit_row(folder / "train.jsonl", 1, duration=1.0),
    "`audio` or the times of '1' have changed": lambda folder: edit_row(folder / "train.jsonl", 1, audio="train-2.wav"),
    "another utterance replaces '2'": lambda folder: write_rows(
        folder / "train.jsonl", [rows_of(folder / "train.jsonl")[index] for index in (0, 2, 1, 3)]
    ),
    "it has 3 utterances and had 4": lambda folder: write_rows(
        folder / "train.jsonl", rows_of(folder / "train.jsonl")[:3]
    ),
    "the audio file of '1' has another size or is gone": lambda folder: soundfile.write(
        folder / "train-1.wav", np.zeros(16_000), 16_000, subtype="FLOAT"
    ),
    "the audio file of '1' was written at another time": lambda folder: soundfile.write(
        folder / "train-1.wav", np.zeros(16_000), 16_000
    ),
    "the audio file of '3' was written at another time": lambda folder: os.utime(folder / "train.tar"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_set_is_refused_and_the_message_names_the_change(folder, change):
    check_and_record(session(folder))
    check_and_record(session(folder))
    CHANGES[change](folder)
    with pytest.raises(InputError) as refused:
        check_and_record(session(folder))
    message = str(refused.value)
    assert message.startswith(f"sets.L: {folder / 'train.jsonl'}: has changed since this run used it: {change}; ")
    remedy = "; restore it, or choose another --output; to accept the new files for the remaining work, delete "
    remedy += str(folder / "run" / "inputs.json")
    assert message.endswith(f"{remedy} (right if the files were only copied)" if "another time" in change else remedy)
    assert rows_of(folder / "train.jsonl")
    shutil.rmtree(folder / "run")
    check_and_record(session(folder))


def test_a_change_within_a_session_is_noticed_at_the_next_stage(folder):
    inputs = session(folder)
    check_and_record(inputs)
    os.utime(folder / "train-0.wav")
    with pytest.raises(InputError, match="the audio file of '0' was written at another time"):
        check_and_record(inputs, "again")


def test_changes_that_the_recipe_does_not_use_are_accepted(folder):
    check_and_record(session(folder), "opd")
    rows = [row | {"text": "other labels", "note": "new"} for row in rows_of(folder / "train.jsonl")]
    write_rows(folder / "train.jsonl", rows)
    inputs = session(folder)
    recorded = inputs.path.read_bytes()
    check_and_record(inputs, "opd")  # the recipe withholds the labels
    (folder / "dev.jsonl").rename(folder / "elsewhere.jsonl")
    check_and_record(session(folder), "opd")  # the stage does not use this set
    assert inputs.path.read_bytes() == recorded


def test_after_the_record_is_deleted_a_copy_is_accepted(folder):
    check_and_record(session(folder))
    os.utime(folder / "train-0.wav")
    with pytest.raises(InputError, match="to accept the new files for the remaining work, delete ") as refused:
        check_and_record(session(folder))
    Path(str(refused.value).rpartition("delete ")[2].partition(" (right")[0]).unlink()
    check_and_record(session(folder))


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("{", ""),
        ("[]", ""),
        ('{"sets": {"L": {}}, "models": {}}', " (sets.L)"),
        ('{"sets": {"L": {"utterances": 4, "size": "0", "text": 3}}, "models": {}}', " (sets.L)"),
        ('{"sets": {}, "models": {"base": {"files": {"config.json": 3}}}}', " (models.base)"),
        ('{"sets": {}, "models": {"base": {}}}', " (models.base)"),
    ],
)
def test_a_damaged_record_gives_one_line_that_names_the_key(folder, content, key):
    (folder / "run").mkdir()
    (folder / "run" / "inputs.json").write_text(content)
    with pytest.raises(InputError) as refused:
        check_and_record(session(folder))
    assert str(refused.value) == (
        f"{folder / 'run' / 'inputs.json'}: is damaged{key}; delete it to accept the present inputs for the "
        "rest of the run"
    )


def test_an_unreadable_input_or_unwritable_record_gives_one_line(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "iterdir", refuse)
        with pytest.raises(InputError, match="base: Permission denied; check path, permissions"):
            check_and_record(session(folder))
    inputs = session(folder)
    (folder / "run").write_text("a file in the place of the folder")
    with pytest.raises(InputError, match=r"run: File exists; check path, permissions"):
        check_and_record(inputs)
    (folder / "run").unlink()
    (folder / "run" / "inputs.json").mkdir(parents=True)
    with pytest.raises(InputError, match=r"inputs\.json: Is a directory; check path and permissions"):
        session(folder)


def test_a_deleted_manifest_is_named_with_a_remedy(folder):
    inputs = session(folder)
    check_and_record(inputs)
    (folder / "train.jsonl").unlink()
    with pytest.raises(InputError, match=r"sets\.L: .*train\.jsonl: no such manifest; restore it"):
        check_and_record(inputs)


def test_a_large_set_is_compared_by_its_index_and_a_sample_of_its_files(folder, monkeypatch):
    monkeypatch.setattr(identity_module, "FULL_CHECK_LIMIT", 20)
    monkeypatch.setattr(inputs_module, "LARGE_BYTES", 0)
    rows = [rows_of(folder / "train.jsonl")[0] | {"id": f"u{number}"} for number in range(100)]
    rows[95]["audio"] = "train-1.wav"
    write_rows(folder / "train.jsonl", rows)
    for settings in ({}, {"shuffle": 1}):
        write_rows(folder / "train.jsonl", rows)
        build_index(folder / "train.jsonl")
        recipe = recipe_of(folder, L={"manifest": "train.jsonl", **settings})
        check_and_record(session(folder, recipe))
        recorded = json.loads((folder / "run" / "inputs.json").read_text())["sets"]["L"]
        assert "text" not in recorded
        assert len(recorded["size"]) == 8 * 20
        edit_row(folder / "train.jsonl", 40, text="the red boot")
        build_index(folder / "train.jsonl")
        with pytest.raises(InputError, match=r"the line of one of the utterances 41 to 41 in the order of the"):
            check_and_record(session(folder, recipe))
        write_rows(folder / "train.jsonl", rows)
        build_index(folder / "train.jsonl")
        check_and_record(session(folder, recipe))
        (folder / "run" / "inputs.json").unlink()
    check_and_record(session(folder, recipe_of(folder)))
    with pytest.raises(InputError, match="its utterances are in another order"):
        check_and_record(session(folder, recipe_of(folder, L={"manifest": "train.jsonl", "shuffle": 1})))
    os.utime(folder / "train-1.wav")
    with pytest.raises(InputError, match="the audio file of 'u95' was written at another time"):
        check_and_record(session(folder, recipe_of(folder)))


def test_regenerated_built_in_speech_is_accepted(tmp_path, monkeypatch):
    monkeypatch.setenv("ARKASR_CACHE", str(tmp_path / "cache"))
    synthetic = {"seed": 1, "train_utterances": 2, "dev_utterances": 1, "test_utterances": 1}
    recipe = recipe_of(tmp_path)
    document = recipe.model_dump(mode="json")
    document["corpus"] = {"synthetic": synthetic}
    document["models"] = {"base": {"preset": "ark-asr-tiny"}, "teacher": {"preset": "qwen3-asr-tiny"}}
    document["tokenizer"] = {"texts": "dev", "vocab_size": 300}
    document["evaluation"]["sets"] = []
    recipe = parse(Recipe, document, "test")
    inputs = session(tmp_path, recipe)
    check_and_record(inputs)
    assert set(json.loads((tmp_path / "run" / "inputs.json").read_text())["sets"]) == {"L", "dev"}
    corpus = inputs._context.corpus
    set_file_times(corpus)  # the same bytes with another modification time
    check_and_record(session(tmp_path, recipe))
    edit_row(corpus / "train.jsonl", 0, text="something else")
    with pytest.raises(InputError, match=r"the text of .* has changed"):
        check_and_record(session(tmp_path, recipe))
