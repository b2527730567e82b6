import numpy as np
import pytest
import soundfile

from arkasr.data.audio import SAMPLE_RATE, decode_audio, duration_of
from arkasr.data.manifests.manifest import read_manifest
from arkasr.errors import InputError
from tests.paths import SHARED_DATA, needs_shared_data


def tone(rate, seconds=2.0, frequency=440.0):
    time = np.arange(int(rate * seconds)) / rate
    return (0.5 * np.sin(2 * np.pi * frequency * time) * (1 + 0.5 * np.sin(3 * time))).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_any_container_and_rate_becomes_16_khz_mono_float32(tmp_path, rate, suffix):
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, np.stack([tone(rate), tone(rate)], axis=1), rate)
    samples = decode_audio(path)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert len(samples) == pytest.approx(2 * SAMPLE_RATE, abs=0.15 * SAMPLE_RATE)
    expected = tone(SAMPLE_RATE)[8_000:24_000]
    if suffix in ("wav", "flac"):
        assert np.abs(samples[8_000:24_000] - expected).max() < 2e-3
    assert duration_of(path) == pytest.approx(2, abs=0.15)


def test_channels_are_averaged(tmp_path):
    left, right = tone(16_000), tone(16_000, frequency=900)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    assert np.abs(decode_audio(tmp_path / "stereo.wav") - (left + right) / 2).max() < 1e-6


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize(("begin", "end"), [(0.5, 1.25), (0.0, 0.3), (1.7, None), (None, 0.9)])
def test_a_piece_equals_that_piece_of_the_whole_file(tmp_path, rate, begin, end):
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(rate), rate, subtype="FLOAT")
    whole, piece = decode_audio(path), decode_audio(path, begin, end)
    first = round((begin or 0.0) * SAMPLE_RATE)
    last = len(whole) if end is None else round(end * SAMPLE_RATE)
    assert len(piece) == last - first
    assert np.abs(piece - whole[first:last]).max() < 1e-3


def test_only_the_piece_is_read(tmp_path, monkeypatch):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(60 * 8_000, dtype=np.float32), 8_000)
    read = []
    original = soundfile.SoundFile.read

    def counting(self, frames=-1, **options):
        read.append(frames)
        return original(self, frames, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    decode_audio(path, 30.0, 31.0)
    assert sum(read) <= 1.3 * 8_000


def test_errors_name_the_unreadable_file(tmp_path):
    with pytest.raises(InputError, match=r"absent\.wav: no such audio file"):
        decode_audio(tmp_path / "absent.wav")
    (tmp_path / "text.wav").write_text("not audio at all")
    with pytest.raises(InputError, match=r"text\.wav: not audio that can be read"):
        decode_audio(tmp_path / "text.wav")
    soundfile.write(tmp_path / "short.wav", tone(16_000, 1.0), 16_000)
    with pytest.raises(InputError, match=r"short\.wav: no audio after 2 s, the file is 1 s long"):
        decode_audio(tmp_path / "short.wav", 2.0, 3.0)
    with pytest.raises(InputError, match=r"short\.wav: no audio at `end_time` 1\.2 s, it is 1\.00 s long"):
        decode_audio(tmp_path / "short.wav", 0.5, 1.2)
    assert len(decode_audio(tmp_path / "short.wav", 0.5, 1.05)) == 8_000
    soundfile.write(tmp_path / "empty.wav", [], 16_000)
    with pytest.raises(InputError, match=r"empty\.wav: no audio"):
        decode_audio(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan], dtype=np.float32), 16_000, subtype="FLOAT")
    with pytest.raises(InputError, match=r"nan\.wav: has samples that are not finite"):
        decode_audio(tmp_path / "nan.wav")


@needs_shared_data
def test_real_clips_in_many_languages_and_containers():
    for utterance in read_manifest(SHARED_DATA / "fixtures" / "all.jsonl"):
        samples = decode_audio(utterance.audio, utterance.begin_time, utterance.end_time)
        assert len(samples) / SAMPLE_RATE == pytest.approx(utterance.duration, abs=0.1)
    containers = [path for path in (SHARED_DATA / "fixtures" / "raw_containers").iterdir() if path.suffix != ".txt"]
    assert {path.suffix for path in containers} >= {".mp3", ".flac", ".wav"}
    for path in containers:
        whole = decode_audio(path)
        assert np.abs(whole).max() > 0.01
        piece = decode_audio(path, 0.5, 1.0)
        expected = whole[8_000:16_000]
        assert np.corrcoef(piece, expected)[0, 1] > 0.99, path.name
