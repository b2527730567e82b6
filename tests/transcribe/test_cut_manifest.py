"""`arkasr data cut`: a manifest of the speech in long recordings."""

import json

import numpy as np
import pytest
import soundfile

from arkasr.data.manifests.manifest import read_manifest, write_manifest
from arkasr.transcribe import cut_manifest
from arkasr.transcribe.cutting import cut_recording
from arkasr.transcribe.recording import Recording


@pytest.fixture
def folder(tmp_path, long_recording):
    """A folder with ninety seconds of speech, and four seconds of it in a subfolder."""
    waveform, _ = long_recording
    (tmp_path / "calls" / "monday").mkdir(parents=True)
    soundfile.write(tmp_path / "calls" / "long.flac", waveform, 16_000)
    soundfile.write(tmp_path / "calls" / "monday" / "short.wav", waveform[: 4 * 16_000], 16_000)
    return tmp_path


@pytest.fixture
def cut(command):
    return lambda *arguments: command("data", "cut", *arguments)


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_pieces_of_a_folder_are_those_that_transcribe_makes(folder, command, cut):
    options = ("-o", folder / "train.jsonl", "--language", "en", "--piece-seconds", 20)
    status, printed, _ = cut(folder / "calls", *options)
    assert status == 0
    utterances = read_manifest(folder / "train.jsonl")
    found = [(utterance.begin_time, utterance.end_time) for utterance in utterances if utterance.audio.stem == "long"]
    pieces = cut_recording(Recording(folder / "calls" / "long.flac"), 20.0, 20.0).pieces
    assert found == [(round(piece.begin / 16_000, 3), round(piece.end / 16_000, 3)) for piece in pieces]
    assert len(found) > 4
    rows = rows_of(folder / "train.jsonl")
    assert {row["audio"] for row in rows} == {"calls/long.flac", "calls/monday/short.wav"}
    assert {utterance.language for utterance in utterances} == {"English"}
    assert all(row["duration"] == pytest.approx(row["end_time"] - row["begin_time"], abs=2e-3) for row in rows)
    assert f"{len(rows)} pieces" in printed
    assert command("data", "check", folder / "train.jsonl")[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == ["calls", "train.jsonl"]


def test_short_utterances_of_a_manifest_stay_as_they_are_and_texts_of_cut_ones_are_counted(folder, cut):
    rows = [
        {"audio": "calls/long.flac", "text": "all of it", "id": "whole", "speaker": "s", "pred_text": "old"},
        {"audio": "calls/long.flac", "begin_time": 10.0, "end_time": 14.0, "text": "short", "id": "a"},
    ]
    write_manifest(folder / "in.jsonl", rows)
    status, printed, _ = cut(folder / "in.jsonl", "-o", folder / "out.jsonl")
    assert status == 0
    *pieces, kept = rows_of(folder / "out.jsonl")
    assert kept == rows[1]
    assert len(pieces) > 2
    assert all(piece.keys() == {"audio", "speaker", "begin_time", "end_time", "duration"} for piece in pieces)
    assert "1 texts are left out" in printed


def test_a_long_utterance_with_speech_only_at_its_beginning_is_cut(folder, cut, spoken):
    """It is one piece that begins where the utterance begins, as a short one is."""
    quiet = np.zeros(40 * 16_000 - len(spoken[0]), dtype=np.float32)
    soundfile.write(folder / "quiet.wav", np.concatenate((spoken[0], quiet)), 16_000)
    write_manifest(folder / "in.jsonl", [{"audio": "quiet.wav", "text": "the red book is in london"}])
    assert cut(folder / "in.jsonl", "-o", folder / "out.jsonl")[0] == 0
    [row] = rows_of(folder / "out.jsonl")
    assert row["duration"] < 10
    assert "text" not in row


def test_a_manifest_elsewhere_has_absolute_paths_and_bad_files_do_not_stop_the_others(folder, cut, tmp_path_factory):
    (folder / "calls" / "bad.mp3").write_bytes(b"not audio")
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "train.jsonl"
    status, _, [*_, error] = cut(folder / "calls", "-o", elsewhere)
    assert status == 2
    assert "1 recordings cannot be read; the first: " in error
    assert {row["audio"] for row in rows_of(elsewhere)} == {
        str(folder / "calls" / name) for name in ("long.flac", "monday/short.wav")
    }


def test_an_interrupted_run_continues_after_the_last_finished_recording(folder, cut, monkeypatch):
    cut_of, calls = cut_manifest.cut_recording, []

    def interrupted(recording, *seconds):
        calls.append(recording.audio.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return cut_of(recording, *seconds)

    monkeypatch.setattr(cut_manifest, "cut_recording", interrupted)
    cut(folder / "calls", "-o", folder / "train.jsonl")
    assert not (folder / "train.jsonl").exists()
    status, _, [error] = cut(folder / "calls", "-o", folder / "train.jsonl", "--piece-seconds", 10)
    assert status == 2
    assert "another --piece-seconds" in error
    assert cut(folder / "calls", "-o", folder / "train.jsonl")[0] == 0
    assert calls == ["long.flac", "short.wav", "short.wav"]
    assert len(rows_of(folder / "train.jsonl")) > 3


def test_a_recording_without_speech_has_no_piece(folder, cut):
    soundfile.write(folder / "silence.wav", np.zeros(16_000 * 40, dtype=np.float32), 16_000)
    assert cut(folder / "silence.wav", "-o", folder / "train.jsonl")[0] == 0
    assert rows_of(folder / "train.jsonl") == []


def test_standard_input_is_refused(folder, cut):
    status, _, [error] = cut("-", "-o", folder / "train.jsonl")
    assert status == 2
    assert "save the audio to a file" in error
