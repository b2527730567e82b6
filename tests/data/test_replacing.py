"""No command overwrites its inputs."""

import json
import os
import platform
import sys
import tarfile

import numpy as np
import pytest
import soundfile

from arkasr.cli import main
from arkasr.data.corpora.prepare import prepare_corpus
from arkasr.data.replacing import refuse_to_replace, reserve_outputs
from arkasr.errors import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A manifest, its audio, a tar, links of both kinds to the manifest, and a model that cannot be loaded."""
    soundfile.write(tmp_path / "a.wav", np.zeros(1_600), 16_000)
    (tmp_path / "set.jsonl").write_text(json.dumps({"audio": "a.wav", "text": "words", "language": "en"}) + "\n")
    (tmp_path / "soft.jsonl").symlink_to("set.jsonl")
    os.link(tmp_path / "set.jsonl", tmp_path / "hard.jsonl")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(tmp_path / "a.wav", "a.wav")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "part").mkdir()
    (tmp_path / "model" / "part" / "vocabulary.jsonl").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


COMMANDS = {
    "evaluate": ["evaluate", "--model", "model"],
    "label": ["label", "--teacher", "model"],
    "transcribe": ["transcribe", "--model", "model", "--format", "jsonl"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("read", "output"),
    [
        ("set.jsonl", "set.jsonl"),
        ("set.jsonl", "./model/../set.jsonl"),
        ("set.jsonl", "soft.jsonl"),
        ("set.jsonl", "hard.jsonl"),
        ("soft.jsonl", "set.jsonl"),
        ("set.jsonl", "a.wav"),
        ("set.jsonl", "model/config.json"),
        ("set.jsonl", "model/part/vocabulary.jsonl"),
    ],
)
def test_an_input_is_refused_as_output_before_a_model_is_loaded(folder, monkeypatch, capsys, command, read, output):
    before = contents(folder)
    name, *options = COMMANDS[command]
    monkeypatch.setattr(sys, "argv", ["arkasr", name, read, *options, "-o", output])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"arkasr: {output.removeprefix('./')}: is an input of this command")
    assert printed.endswith("; name another output\n")
    assert contents(folder) == before


@pytest.mark.parametrize("read", ["set.jsonl", "a.wav"])
def test_standard_input_is_not_overwritten(folder, monkeypatch, capsys, read):
    before = contents(folder)
    arguments = ["transcribe", "-", "--model", "model", "--format", "jsonl", "-o", read]
    monkeypatch.setattr(sys, "argv", ["arkasr", *arguments])
    with (folder / read).open(encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(SystemExit):
            main()
    assert f"arkasr: {read}: is an input of this command; name another output" in capsys.readouterr().err
    assert contents(folder) == before


def test_dropped_labels_do_not_overwrite_the_manifest(folder, monkeypatch, capsys):
    (folder / "set.jsonl").rename(folder / "new.dropped.jsonl")
    monkeypatch.setattr(sys, "argv", ["arkasr", "label", "new.dropped.jsonl", "--teacher", "model", "-o", "new.jsonl"])
    with pytest.raises(SystemExit):
        main()
    assert "new.dropped.jsonl: is an input of this command; name another output" in capsys.readouterr().err


def test_a_folder_of_transcripts_does_not_overwrite_the_manifest(folder, monkeypatch, capsys):
    (folder / "x.jsonl").write_text(json.dumps({"audio": "a.wav", "id": "x"}) + "\n")
    monkeypatch.setattr(sys, "argv", ["arkasr", "transcribe", "x.jsonl", "--model", "model", "-o", "./"])
    with pytest.raises(SystemExit):
        main()
    assert "x.jsonl: is an input of this command; name another output" in capsys.readouterr().err


def test_a_manifest_does_not_overwrite_its_tar(folder, monkeypatch, capsys):
    before = contents(folder)
    monkeypatch.setattr(sys, "argv", ["arkasr", "data", "shards", "shard.tar", "-o", "shard.tar"])
    with pytest.raises(SystemExit):
        main()
    assert "shard.tar: is an input of this command; name another output" in capsys.readouterr().err
    assert contents(folder) == before


def test_prepared_manifests_do_not_overwrite_their_source_through_a_link(folder, tmp_path):
    (folder / "set.jsonl").rename(folder / "train.jsonl")
    output = folder / "prepared"
    output.mkdir()
    (output / "train.jsonl").symlink_to(folder / "train.jsonl")
    with pytest.raises(InputError, match=r"prepared/train\.jsonl: is an input of this command \(.*train\.jsonl\)"):
        prepare_corpus("an4", folder, output)
    (output / "train.jsonl").unlink()
    for _ in range(2):  # its own earlier output may be overwritten
        assert prepare_corpus("an4", folder, output).splits == {"train": (1, 0.1)}


def test_a_slice_of_a_tar_counts_as_the_tar(tmp_path):
    (tmp_path / "shard.tar").write_bytes(b"0" * 1_000)
    with pytest.raises(InputError, match=r"shard\.tar: is an input"):
        refuse_to_replace([tmp_path / "shard.tar:0:10"], [tmp_path / "shard.tar"])
    refuse_to_replace([tmp_path / "shard.tar:0:10", tmp_path / "gone"], [tmp_path / "new"])


BAD_OUTPUTS = {
    "a folder": ("model", "model: is a folder; name a file"),
    "a folder that cannot exist": ("a.wav/x/out.jsonl", "Not a directory"),
    "a name that is too long": (f"{'n' * 260}.jsonl", "File name too long"),
}


@pytest.mark.parametrize("command_name", ["evaluate", "label", "transcribe"])
@pytest.mark.parametrize(("output", "message"), BAD_OUTPUTS.values(), ids=BAD_OUTPUTS)
def test_an_output_that_cannot_be_written_is_named_before_a_model_is_loaded(
    folder, command, command_name, output, message
):
    if (command_name, output) == ("transcribe", "model"):
        output = "model/config.json/out.jsonl"  # of `transcribe`, an output may be a folder
        message = "File exists"
    name, *options = COMMANDS[command_name]
    before = contents(folder)
    status, _, errors = command(name, "set.jsonl", *options, "-o", output)
    assert (status, len(errors)) == (2, 1)
    assert message in errors[0]
    assert contents(folder) == before


@pytest.mark.parametrize("command_name", ["evaluate", "label", "transcribe"])
def test_a_second_command_does_not_write_the_same_output(folder, command, command_name):
    name, *options = COMMANDS[command_name]
    with reserve_outputs([folder / "out.jsonl"]):
        status, _, errors = command(name, "set.jsonl", *options, "-o", folder / "out.jsonl")
    assert status == 2
    holder = f"process {os.getpid()} on {platform.node()}"
    assert errors == [f"arkasr: {folder / 'out.jsonl'}: {holder} is writing it; wait for it, or name another output"]
    _, _, errors = command(name, "set.jsonl", *options, "-o", folder / "out.jsonl")
    assert "is writing it" not in errors[0]
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_folder_of_transcripts_is_written_by_one_command(folder, command):
    with reserve_outputs([folder / "texts" / ".transcribe.partial"]):
        _, _, errors = command("transcribe", "set.jsonl", "--model", "model", "-o", "texts/")
    assert "is writing it" in errors[0]
