"""Recordings embedded in a page: a small MP3 in a data URI, or the reason why there is none.

MP3 plays in every browser, on phones too. Opus does not, and libsndfile takes ten times as long to encode it.
"""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from arkasr.data.audio import SAMPLE_RATE, decode_audio, duration_of
from arkasr.data.slices import containing_file
from arkasr.errors import InputError

COMPRESSION = 0.9  # from 0 (best quality) to 1 (smallest file); 0.9 is about 26 kbit/s at 16 kHz


@dataclass(frozen=True)
class Clip:
    """A recording as `data:audio/mpeg;base64,…`, or the reason why it is missing; exactly one is None."""

    uri: str | None = None
    missing: str | None = None


def embedded_clip(row: Mapping[str, Any], max_seconds: float) -> Clip:
    """The recording of a transcript's row between its `begin_time` and `end_time`, unless longer than `max_seconds`."""
    path = Path(str(row.get("audio_path")))
    if not containing_file(path).is_file():
        return Clip(missing="recording not found")
    begin, end = _seconds(row.get("begin_time")), _seconds(row.get("end_time"))
    try:
        if (end or duration_of(path)) - (begin or 0.0) > max_seconds:
            return Clip(missing=f"recording longer than {max_seconds:g} s")
        return Clip(uri="data:audio/mpeg;base64," + _mp3(path, begin, end))
    except (InputError, OSError, soundfile.SoundFileError):
        return Clip(missing="recording cannot be read")


def _mp3(path: Path, begin: float | None, end: float | None) -> str:
    encoded = io.BytesIO()
    soundfile.write(
        encoded,
        decode_audio(path, begin, end),
        SAMPLE_RATE,
        format="MP3",
        subtype="MPEG_LAYER_III",
        compression_level=COMPRESSION,
        bitrate_mode="VARIABLE",
    )
    return base64.b64encode(encoded.getvalue()).decode("ascii")


def _seconds(value: Any) -> float | None:
    """A time in a manifest; None if it is negative or missing."""
    return float(value) if isinstance(value, (int, float)) and value >= 0 else None
