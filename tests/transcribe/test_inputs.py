"""What a folder, a manifest of any usual name, and a film are to `transcribe`."""

import json

import numpy as np
import pytest
import soundfile

from arkasr.transcribe.inputs import open_inputs
from tests.audio_files import FORMATS, write_audio


@pytest.fixture
def folder(tmp_path):
    samples = np.random.default_rng(0).normal(size=16_000).astype(np.float32) * 0.1
    folder = tmp_path / "calls"
    (folder / ".trash").mkdir(parents=True)
    for name in ("aac.m4a", "film.mp4", "16.wav"):
        write_audio(folder / name, samples, FORMATS[name])
    (folder / "16.wav").rename(folder / ".trash" / "old.wav")
    (folder / "._film.mp4").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ")
    (folder / "notes.txt").write_text("no audio")
    return folder


def test_a_folder_holds_films_and_phone_recordings_but_no_hidden_files(folder):
    with open_inputs([str(folder)], find_speech=None) as inputs:
        assert [item.output_name for item in inputs] == ["aac", "film"]
        assert all(item.recording.seconds() == pytest.approx(1.0, abs=0.06) for item in inputs)


@pytest.mark.parametrize("name", ["set.jsonl", "set.ndjson", "set.json"])
def test_a_manifest_may_have_any_usual_name(tmp_path, name):
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    rows = [{"audio": "a.wav", "id": "x"}, {"audio": "a.wav", "id": "y", "begin_time": 0.2, "end_time": 0.5}]
    (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    with open_inputs([str(tmp_path / name)], find_speech=None) as inputs:
        assert [item.output_name for item in inputs] == ["x", "y"]
