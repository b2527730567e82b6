"""Checkpoints: what they hold, how damage is found, and that a resumed run ends with the same bits."""

import copy
import json
import subprocess

import pytest
from safetensors.torch import load_file

from arkasr.errors import InputError
from arkasr.train.loop import train
from arkasr.train.stages.sft import SupervisedStage
from arkasr.train.training_state import TrainingState
from tests.train.runs import SETTINGS, KilledError, assert_weights, kill_at, losses, weights_of
from tests.train.stream import Stream


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_killed_and_resumed_run_ends_with_the_bits_of_an_undisturbed_one(
    student, noise_examples, tmp_path, optimizer
):
    examples = noise_examples(student)
    batches = [examples[:2], examples[2:], examples[1:4]]
    settings = SETTINGS.model_copy(update={"checkpoint_every": 2, "optimizer": optimizer})
    victim, resumed = copy.deepcopy(student), copy.deepcopy(student)
    train(SupervisedStage(student, None), Stream(batches), settings, tmp_path / "undisturbed", seed=3)

    folder = tmp_path / "killed"
    with pytest.raises(KilledError):
        train(SupervisedStage(victim, None), Stream(batches), settings, folder, seed=3, on_step=kill_at(5))
    train(SupervisedStage(resumed, None), Stream(batches), settings, folder, seed=3)

    assert_weights(resumed, weights_of(student))
    assert losses(folder) == losses(tmp_path / "undisturbed")
    assert [step for step, _ in losses(folder)] == [1, 2, 3, 4, 5, 6]


def test_the_newest_checkpoints_are_kept_and_hold_no_pickle(student, noise_examples, tmp_path):
    settings = SETTINGS.model_copy(update={"checkpoint_every": 1, "keep_checkpoints": 2})
    train(SupervisedStage(student, None), Stream([noise_examples(student)]), settings, tmp_path, seed=0)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-5", "step-6"]
    files = {file.name for file in (tmp_path / "checkpoints" / "step-6").iterdir()}
    (tensors,) = (name for name in files if name.endswith(".safetensors"))
    assert files == {tensors, "state.json", "SHA256SUMS"}
    assert load_file(tmp_path / "checkpoints" / "step-6" / tensors)


def test_the_state_file_has_the_keys_of_earlier_versions(student, noise_examples, tmp_path):
    train(SupervisedStage(student, None), Stream([noise_examples(student)]), SETTINGS, tmp_path, seed=3)
    document = json.loads((tmp_path / "checkpoints" / "step-6" / "state.json").read_text())
    assert document.keys() == {"step", "random", "skipped_in_a_row", "order", "data"}
    assert document["order"] == 3
    optional = {"not_evaluated": {"loss": 1.0}, "scaler": {"scale": 2.0}, "under_way": {"7": {}}}
    document = document | optional
    del document["random"]
    assert TrainingState.from_json(document).to_json() == document


def test_an_incomplete_checkpoint_of_a_killed_run_is_removed(student, noise_examples, tmp_path):
    settings = SETTINGS.model_copy(update={"steps": 2, "checkpoint_every": 1})
    train(SupervisedStage(student, None), Stream([noise_examples(student)]), settings, tmp_path, seed=0)
    incomplete = tmp_path / "checkpoints" / ".writing-9"
    incomplete.mkdir()
    (incomplete / "state.json").write_bytes(b"{}")
    longer = settings.model_copy(update={"steps": 3})
    train(SupervisedStage(student, None), Stream([noise_examples(student)]), longer, tmp_path, seed=0)
    assert [step for step, _ in losses(tmp_path)] == [1, 2, 3]
    assert not incomplete.exists()


def flip_a_bit(checkpoint, tensors):
    content = bytearray(tensors.read_bytes())
    content[len(content) // 2] ^= 1
    tensors.write_bytes(content)


DAMAGES = {
    "a flipped bit": flip_a_bit,
    "a missing file": lambda checkpoint, tensors: tensors.unlink(),
    "a truncated file": lambda checkpoint, tensors: tensors.write_bytes(tensors.read_bytes()[:-100]),
    "no checksums": lambda checkpoint, tensors: (checkpoint / "SHA256SUMS").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(student, noise_examples, tmp_path, damage):
    examples = noise_examples(student)
    batches = [examples[:2], examples[2:], examples[1:4]]
    settings = SETTINGS.model_copy(update={"checkpoint_every": 2})
    start = weights_of(student)
    train(SupervisedStage(student, None), Stream(batches), settings, tmp_path / "undisturbed", seed=3)
    expected = weights_of(student)

    student.model.load_state_dict(start)
    folder = tmp_path / "damaged"
    train(SupervisedStage(student, None), Stream(batches), settings, folder, seed=3)
    newest = folder / "checkpoints" / "step-6"
    (tensors,) = newest.glob("*.safetensors")
    damage(newest, tensors)

    warnings = []
    train(SupervisedStage(student, None), Stream(batches), settings, folder, seed=3, on_warning=warnings.append)
    (warning,) = warnings
    assert warning.startswith(f"{newest}: ")
    assert warning.endswith("; this checkpoint is not used")
    assert_weights(student, expected)
    assert losses(folder) == losses(tmp_path / "undisturbed")


def test_sha256sum_accepts_the_checksums_of_a_checkpoint(student, noise_examples, tmp_path):
    train(SupervisedStage(student, None), Stream([noise_examples(student)]), SETTINGS, tmp_path, seed=0)
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=tmp_path / "checkpoints" / "step-6",
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count(": OK") == 2


def test_a_stage_whose_checkpoints_are_all_damaged_stops_with_an_error(student, noise_examples, tmp_path):
    train(SupervisedStage(student, None), Stream([noise_examples(student)]), SETTINGS, tmp_path, seed=0)
    (tmp_path / "checkpoints" / "step-6" / "state.json").write_text("{}")
    with pytest.raises(InputError, match="every checkpoint is damaged; remove the folder to train the stage again"):
        train(SupervisedStage(student, None), Stream([noise_examples(student)]), SETTINGS, tmp_path, seed=0)


def test_a_damaged_newer_checkpoint_does_not_count_towards_those_that_are_kept(student, noise_examples, tmp_path):
    settings = SETTINGS.model_copy(update={"checkpoint_every": 2})
    train(SupervisedStage(student, None), Stream([noise_examples(student)]), settings, tmp_path, seed=0)
    (tmp_path / "checkpoints" / "step-6" / "SHA256SUMS").write_text("")
    (tmp_path / "checkpoints" / "step-6.bak").mkdir()
    shorter = settings.model_copy(update={"steps": 5, "keep_checkpoints": 1})
    warnings = []
    train(
        SupervisedStage(student, None),
        Stream([noise_examples(student)]),
        shorter,
        tmp_path,
        seed=0,
        on_warning=warnings.append,
    )
    (warning,) = warnings
    assert warning.startswith(f"{tmp_path}/checkpoints/step-6: SHA256SUMS does not list ")
    remaining = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert remaining == {"step-5", "step-6", "step-6.bak"}
