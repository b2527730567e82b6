import base64
import io
from pathlib import Path

import numpy as np
import soundfile

from arkasr.report.clips import embedded_clip


def tone(path: Path, seconds: float, rate: int = 16_000) -> Path:
    soundfile.write(path, 0.3 * np.sin(np.arange(int(seconds * rate)) * 2 * np.pi * 440 / rate), rate)
    return path


def decoded(uri: str | None) -> tuple[np.ndarray, int]:
    assert uri is not None
    kind, _, payload = uri.partition(",")
    assert kind == "data:audio/mpeg;base64"
    return soundfile.read(io.BytesIO(base64.b64decode(payload)))


def test_a_clip_is_the_recording_resampled(tmp_path: Path) -> None:
    path = tone(tmp_path / "a.flac", 2.0, rate=44_100)
    samples, rate = decoded(embedded_clip({"audio_path": str(path)}, max_seconds=30).uri)
    assert rate == 16_000
    assert abs(len(samples) / rate - 2.0) < 0.1
    spectrum = np.abs(np.fft.rfft(samples))
    assert abs(np.fft.rfftfreq(len(samples), 1 / rate)[spectrum.argmax()] - 440) < 5


def test_a_clip_is_cut_by_begin_and_end_time(tmp_path: Path) -> None:
    row = {"audio_path": str(tone(tmp_path / "a.flac", 3.0)), "begin_time": 1.0, "end_time": 1.5}
    samples, rate = decoded(embedded_clip(row, max_seconds=1).uri)
    assert abs(len(samples) / rate - 0.5) < 0.15
    row |= {"begin_time": -1, "end_time": -1}
    assert embedded_clip(row, max_seconds=1).missing == "recording longer than 1 s"


def test_a_missing_or_broken_recording_has_a_reason(tmp_path: Path) -> None:
    assert embedded_clip({"audio_path": str(tmp_path / "gone.flac")}, max_seconds=30).missing == "recording not found"
    assert embedded_clip({}, max_seconds=30).missing == "recording not found"
    (tmp_path / "broken.flac").write_bytes(b"fLaC no more")
    assert (
        embedded_clip({"audio_path": str(tmp_path / "broken.flac")}, max_seconds=30).missing
        == "recording cannot be read"
    )
