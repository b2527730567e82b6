"""Audio files of any kind as 16 kHz mono float32; a piece of a file is read by seeking to it.

Knows nothing of manifests or features.
"""

from pathlib import Path

import numpy as np
import soundfile
import soxr

from arkasr.errors import InputError

SAMPLE_RATE = 16_000
# Resampled pieces are read with this much on either side, so that the filter sees what the whole file would show it.
MARGIN_SECONDS = 0.1


def decode(path: str | Path, begin_time: float | None = None, end_time: float | None = None) -> np.ndarray:
    """Read a file, or a piece of it, as float32 `[samples]`, 16 kHz mono; channels are averaged.

    Args:
        path: anything that libsndfile reads: wav, flac, mp3, ogg and others, any rate and number of channels.
        begin_time: seconds; None = from the start.
        end_time: seconds; None, or past the end = to the end.

    Raises:
        InputError: the file is missing, cannot be read, is empty there, or holds values that are not finite.
    """
    with _open(path) as file:
        rate = file.samplerate
        begin = round((begin_time or 0.0) * rate)
        end = file.frames if end_time is None else min(round(end_time * rate), file.frames)
        if end <= begin:
            raise InputError(f"{path}: no audio from {begin / rate:g} s on; the file is {file.frames / rate:g} s long")
        margin = 0 if rate == SAMPLE_RATE else round(MARGIN_SECONDS * rate)
        first, last = max(begin - margin, 0), min(end + margin, file.frames)
        try:
            file.seek(first)
            samples = file.read(last - first, dtype="float32", always_2d=True).mean(axis=1)
        except soundfile.LibsndfileError as error:
            raise InputError(f"{path}: cannot be decoded ({error}); convert or leave out the file") from error
    if not len(samples):
        raise InputError(f"{path}: holds no audio; leave out the file")
    if not np.isfinite(samples).all():
        raise InputError(f"{path}: holds samples that are not finite; leave out the file")
    if rate == SAMPLE_RATE:
        return samples
    resampled = soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
    start = round((begin - first) * SAMPLE_RATE / rate)
    return np.ascontiguousarray(resampled[start : start + round((end - begin) * SAMPLE_RATE / rate)])


def duration_of(path: str | Path) -> float:
    """Seconds of a file, from its header.

    Raises:
        InputError: the file is missing or cannot be read.
    """
    with _open(path) as file:
        return float(file.frames / file.samplerate)


def _open(path: str | Path) -> soundfile.SoundFile:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such audio file")
    try:
        return soundfile.SoundFile(str(path))
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path}: not audio that can be read ({error}); convert or leave out the file") from error
