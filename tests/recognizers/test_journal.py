import json

import numpy as np
import pytest
import soundfile

from arkasr.data.manifests.manifest import read_manifest
from arkasr.errors import InputError
from arkasr.recognizers import inference
from arkasr.recognizers.journal import Journal
from arkasr.recognizers.recognition import Recognition
from tests.audio_files import noise_rows

FIRST = Recognition("raw 今天", "今天", 3, True)
SECOND = Recognition(error="could not be heard")
RUN = {"model": "tiny", "max_new_tokens": 16}


def write(path):
    with Journal(path, RUN) as journal:
        journal.add({"a": FIRST})
        journal.add({"b": SECOND})


def test_stored_recognitions_are_read_back(tmp_path):
    write(tmp_path / "journal")
    with Journal(tmp_path / "journal", RUN) as journal:
        assert (journal.get("a"), journal.get("b"), journal.get("c")) == (FIRST, SECOND, None)


def test_complete_lines_survive_a_kill_at_any_byte(tmp_path):
    path = tmp_path / "journal"
    write(path)
    complete = path.read_bytes()
    for length in range(len(complete)):
        path.write_bytes(complete[:length])
        with Journal(path, RUN) as journal:
            assert (journal.get("b") == SECOND) == (length == len(complete))
            journal.add({name: value for name, value in {"a": FIRST, "b": SECOND}.items() if not journal.get(name)})
        assert path.read_bytes() == complete


@pytest.mark.parametrize("damage", [b"\0\0\0\0\n", b"[1]\n", b'{"key": "b", "words": 3}\n', b'"text"\n'])
def test_a_damaged_line_and_all_after_it_are_ignored(tmp_path, damage):
    path = tmp_path / "journal"
    write(path)
    header, first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(header + first + damage + second)
    with Journal(path, RUN) as journal:
        assert (journal.get("a"), journal.get("b")) == (FIRST, None)
        journal.add({"b": SECOND})
    assert path.read_bytes() == header + first + second


def test_other_settings_are_refused(tmp_path):
    write(tmp_path / "journal")
    with pytest.raises(InputError, match="another model or other settings; repeat that command to finish"):
        Journal(tmp_path / "journal", RUN | {"model": "large"})


def test_remove_deletes_the_file(tmp_path):
    with Journal(tmp_path / "journal", RUN) as journal:
        journal.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(map(json.dumps, noise_rows(tmp_path))))
    return path


@pytest.mark.parametrize(("name", "option"), [("label", "--teacher"), ("evaluate", "--model")])
def test_an_interrupted_command_continues_and_writes_the_same(
    command, whisper_folder, manifest, tmp_path, monkeypatch, name, option
):
    recognize_batch, decoded = inference._recognize_batch, []

    def limited_to(batches):
        def recognize(recognizer, loaded, *arguments):
            if len(decoded) == batches:
                raise KeyboardInterrupt
            decoded.append(len(loaded))
            return recognize_batch(recognizer, loaded, *arguments)

        decoded.clear()
        monkeypatch.setattr(inference, "_recognize_batch", recognize)

    def run(output, *arguments):
        return command(
            name,
            manifest,
            option,
            whisper_folder,
            "-o",
            output,
            "--batch-seconds",
            1,
            "--max-new-tokens",
            4,
            *arguments,
        )

    limited_to(3)
    assert run(tmp_path / "whole.jsonl")[0] == 0
    limited_to(2)
    assert run(tmp_path / "interrupted.jsonl")[0] == 130
    assert not (tmp_path / "interrupted.jsonl").exists()
    code, _, errors = run(tmp_path / "interrupted.jsonl", "--max-new-tokens", 3)
    assert code == 2
    assert "another model or other settings" in errors[-1]
    limited_to(1)
    assert run(tmp_path / "interrupted.jsonl")[0] == 0
    assert (tmp_path / "interrupted.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_changed_recording_is_decoded_again(whisper, manifest, tmp_path):
    utterances = read_manifest(manifest)
    settings = inference.RecognitionSettings(max_new_tokens=4)
    with Journal(tmp_path / "journal", RUN) as journal:
        inference.recognize(whisper, utterances, settings, journal=journal)
    soundfile.write(tmp_path / "1.wav", np.full(16_000, 0.5), 16_000)
    counts = []
    with Journal(tmp_path / "journal", RUN) as journal:
        inference.recognize(whisper, utterances, settings, journal=journal, on_batch=counts.append)
    assert counts == [2, 1]


def test_labels_that_may_be_corrected_are_not_replaced_without_being_asked(command, whisper_folder, manifest, tmp_path):
    corrected = tmp_path / "labels.jsonl"
    corrected.write_text("corrected by hand\n")
    arguments = ("label", manifest, "--teacher", whisper_folder, "-o", corrected, "--max-new-tokens", 4)
    code, _, errors = command(*arguments)
    assert code == 2
    assert "labels.jsonl: exists, and may hold corrections; name another output, or add --overwrite" in errors[-1]
    assert corrected.read_text() == "corrected by hand\n"
    assert command(*arguments, "--overwrite")[0] == 0
    assert "corrected by hand" not in corrected.read_text()
