"""A clip longer than the models accept is refused before it is decoded."""

import json
import tarfile
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile

from arkasr.data.audio import LONGEST_CLIP_SECONDS, decode_audio, duration_of, is_silent
from arkasr.data.examples import ExampleDataset
from arkasr.data.manifests.check import check_manifest
from arkasr.data.manifests.manifest import read_manifest
from arkasr.data.slices import IN_MEMORY_BYTES
from arkasr.errors import InputError
from arkasr.recognizers.inference import RecognitionSettings, recognize
from arkasr.run.teachers import _first_readable
from arkasr.teacher.label import label

MINUTES = 20
DECODED = MINUTES * 60 * 16_000 * 4  # bytes, as float32
SETTINGS = RecognitionSettings(60.0, 4)


@contextmanager
def little_memory():
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < DECODED / 4
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty minutes of audio in each of several formats, and in a tar."""
    folder = tmp_path_factory.mktemp("long")
    for suffix in ("wav", "flac", "ogg", "mp3"):
        with soundfile.SoundFile(folder / f"long.{suffix}", "w", 16_000, 1) as file:
            for _ in range(MINUTES):
                file.write(np.zeros(60 * 16_000, dtype=np.float32))
    with tarfile.open(folder / "shard.tar", "w") as tar:
        tar.add(folder / "long.wav", "long.wav")
    with tarfile.open(folder / "shard.tar") as tar:
        member = tar.getmember("long.wav")
    assert member.size > IN_MEMORY_BYTES
    (folder / "part").write_text(f"shard.tar:{member.offset_data}:{member.size}")
    return folder


def manifest_of(folder, audio, tmp_path, **fields):
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps({"audio": str(folder / audio), "id": "long", "language": "English"} | fields))
    return read_manifest(path)


@pytest.fixture(params=["wav", "flac", "ogg", "mp3", "tar"])
def long(request, folder, tmp_path):
    audio = (folder / "part").read_text() if request.param == "tar" else f"long.{request.param}"
    return manifest_of(folder, audio, tmp_path)


def test_a_long_clip_is_refused_in_little_memory(student, long):
    with little_memory():
        (found,) = recognize(student, long, SETTINGS)
    assert "the audio is 1200.0 s long, the models take at most 30 s; cut it into pieces" in found.error
    assert str(long[0].audio) in found.error


def test_a_wrong_duration_in_the_manifest_does_not_lead_to_decoding(student, folder, tmp_path):
    utterances = manifest_of(folder, "long.wav", tmp_path, duration=5.0)
    dataset = ExampleDataset(utterances, {student.frontend: student.features})
    with little_memory(), pytest.raises(InputError, match=r"long\.wav: the audio is 1200\.0 s long"):
        dataset[0]


def test_a_long_piece_is_refused_and_a_short_one_is_read_in_little_memory(folder, tmp_path):
    part = str(folder / (folder / "part").read_text())
    for audio in (folder / "long.wav", part):
        with little_memory():
            assert duration_of(audio) == MINUTES * 60
            assert len(decode_audio(audio, 600.0, 629.0, max_seconds=LONGEST_CLIP_SECONDS)) == 29 * 16_000
            with pytest.raises(InputError, match=r"the audio is 300\.0 s long"):
                decode_audio(audio, 600.0, 900.0, max_seconds=LONGEST_CLIP_SECONDS)


def test_labelling_server_test_and_processor_refuse_long_clips_in_little_memory(student, teacher, long, tmp_path):
    with little_memory():
        assert label(teacher, long, SETTINGS).counts == {"kept": 0, "unreadable": 1}
        with pytest.raises(InputError, match="none of the first"):
            _first_readable(long)
        asked = [
            {"role": "user", "content": [{"type": "audio", "path": str(long[0].audio)}, {"type": "text", "text": "?"}]}
        ]
        with pytest.raises(InputError, match="the models take at most 30 s"):
            student.processor.apply_chat_template(asked, add_generation_prompt=True)
        truncated = student.processor.apply_chat_template(asked, add_generation_prompt=True, audio_max_length=16_000)
    assert truncated["audios"].shape[2] == 100


def test_a_long_recording_is_checked_in_little_memory(long, tmp_path):
    with little_memory():
        (problem,) = check_manifest(tmp_path / "set.jsonl", decode_audio=True).problems
    assert "every sample is zero" in problem.message


def test_silence_is_checked_in_all_of_a_long_recording(tmp_path):
    samples = np.zeros(150 * 8_000, dtype=np.float32)
    samples[149 * 8_000] = 0.5
    soundfile.write(tmp_path / "a.wav", samples, 8_000, subtype="FLOAT")
    assert not is_silent(tmp_path / "a.wav")
    assert is_silent(tmp_path / "a.wav", 10.0, 148.9)
    samples[148 * 8_000] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 8_000, subtype="FLOAT")
    with pytest.raises(InputError, match="has samples that are not finite"):
        is_silent(tmp_path / "nan.wav")
    soundfile.write(tmp_path / "a.flac", np.random.default_rng(0).normal(size=150 * 8_000) * 0.1, 8_000)
    whole = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(InputError, match=r"a\.flac: "):
        is_silent(tmp_path / "a.flac")


def test_many_channels_at_a_high_rate_take_little_memory(tmp_path):
    """A small file may hold gigabytes: FLAC has up to 8 channels at 655 kHz. Here they cancel each other."""
    rate, seconds = 655_350, 20
    wave = (np.arange(rate) // 400 % 2 * 20_000 - 10_000).astype(np.int16)
    with soundfile.SoundFile(tmp_path / "a.flac", "w", rate, 8, subtype="PCM_16") as file:
        for _ in range(seconds):
            file.write(np.stack([wave, -wave] * 4, axis=1))
    tracemalloc.start()
    try:
        samples = decode_audio(tmp_path / "a.flac")
        assert tracemalloc.get_traced_memory()[1] < 8 * rate * seconds  # of 4 bytes each
    finally:
        tracemalloc.stop()
    assert len(samples) == seconds * 16_000
    assert np.abs(samples).max() > 0.2
