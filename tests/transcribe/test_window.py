"""Transcription by a Whisper model with a window of five seconds."""

import json

import pytest
import soundfile

from arkasr.data.manifests.manifest import write_manifest
from arkasr.errors import InputError
from arkasr.recognizers.whisper_window import with_window
from arkasr.transcribe.command import target_of, transcribe_inputs
from arkasr.transcribe.inputs import open_inputs
from arkasr.transcribe.transcriber import Transcriber, TranscriptionSettings
from tests import models

WINDOW = 5


@pytest.fixture
def short(vocabulary):
    return with_window(models.small_whisper(vocabulary), WINDOW)


@pytest.fixture
def transcribe(short, tmp_path, command):
    """Runs `arkasr transcribe`; gives what `command` gives."""
    short.save(tmp_path / "model")
    return lambda *arguments: command("transcribe", *arguments, "--model", tmp_path / "model", "--max-new-tokens", 8)


def durations(segments):
    return [segment["end"] - segment["begin"] for segment in segments]


def test_long_utterances_of_a_manifest_are_cut_and_short_ones_are_not(transcribe, long_recording, tmp_path):
    soundfile.write(tmp_path / "long.wav", long_recording[0], 16_000)
    times = [(0, WINDOW), (0.5, 12.5), (2, 2 + WINDOW + 0.01), (0, -1)]
    rows = [{"audio": "long.wav", "begin_time": begin, "end_time": end} for begin, end in times]
    write_manifest(tmp_path / "all.jsonl", rows)
    assert transcribe(tmp_path / "all.jsonl", "-o", tmp_path / "out.jsonl")[0] == 0
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert not any("error" in row for row in found)
    assert "pred_segments" not in found[0]
    for row in found[1:]:
        assert 0 < max(durations(row["pred_segments"])) <= WINDOW
    assert sum(durations(found[3]["pred_segments"])) > 60


def test_pieces_of_subtitles_fit_into_the_window(transcribe, long_recording, tmp_path):
    soundfile.write(tmp_path / "long.wav", long_recording[0], 16_000)
    assert transcribe(tmp_path / "long.wav", "-o", tmp_path / "out.srt")[0] == 0
    assert (tmp_path / "out.srt").read_text().count(" --> ") > 20


def test_a_piece_longer_than_the_window_is_one_error(transcribe, short, long_recording, tmp_path):
    soundfile.write(tmp_path / "long.wav", long_recording[0], 16_000)
    status, _, lines = transcribe(tmp_path / "long.wav", "-o", tmp_path / "out.txt", "--piece-seconds", 6)
    assert (status, lines) == (2, ["arkasr: piece_seconds is 6; give 1 to 5, the longest clip of this model"])
    transcriber = Transcriber(short, settings=TranscriptionSettings(3.0, max_new_tokens=8))
    segments = transcriber(tmp_path / "long.wav").segments
    assert max(segment.end - segment.begin for segment in segments) <= 3


def test_a_run_is_not_continued_with_another_window(short, spoken, vocabulary, tmp_path):
    """The weights that a fingerprint reads are the same."""
    soundfile.write(tmp_path / "a.wav", spoken[0], 16_000)
    settings = TranscriptionSettings(max_new_tokens=8)
    with open_inputs([str(tmp_path / "a.wav")], find_speech=False) as inputs:
        target = target_of(str(tmp_path / "out.jsonl"), None, inputs)

        def interrupt(seconds, recordings):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            transcribe_inputs(Transcriber(short, settings=settings), inputs, target, "model", interrupt)
        other = Transcriber(models.small_whisper(vocabulary), settings=settings)
        with pytest.raises(InputError, match="keeps the progress of a run with another model or other settings"):
            transcribe_inputs(other, inputs, target, "model")
        assert transcribe_inputs(Transcriber(short, settings=settings), inputs, target, "model").problems == []
