"""Audio files of any kind as 16 kHz mono float32; a piece of a file is read by seeking to it.

A file may be a part of another one, such as a member of a tar (`slices.py`). Knows nothing of manifests or features.
"""

import math
import os
from pathlib import Path

import numpy as np
import soundfile
import soxr

from arkasr.data.slices import file_of, slice_of
from arkasr.errors import InputError

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64")
SAMPLE_RATE = 16_000  # samples a second
LONGEST_CLIP_SECONDS = 30.0  # what the audio encoders of student and teacher hear at once
# Resampled pieces are read with this much on either side, so that the filter sees what the whole file would show it.
MARGIN_SECONDS = 0.1
# The headers of mp3 files count some padding that decoders leave out.
MISSING_SECONDS = 0.1
BLOCK_SECONDS = 60  # of a file that is looked through
# libsndfile reports about 2**63 frames for a stream whose header leaves the length open.
MAX_FRAMES = 2**40


def decode_audio(
    path: str | Path, begin_time: float | None = None, end_time: float | None = None, *, longest: float = math.inf
) -> np.ndarray:
    """Read a file, or a piece of it, as float32 `[samples]`, 16 kHz mono; channels are averaged.

    A piece is what the whole file resampled would hold in that place.

    Args:
        path: anything that libsndfile reads: wav, flac, mp3, ogg and others, any rate and number of channels.
        begin_time: seconds; None = from the start.
        end_time: seconds; None, or past the end = to the end.
        longest: seconds; more than that, and what a header may be wrong by, is refused before it is decoded.

    Raises:
        InputError: the file is missing, cannot be read, is empty or too long there, ends before its header says, or
            holds values that are not finite.
    """
    with _open(path) as file:
        rate, seconds = file.samplerate, file.frames / file.samplerate
        begin = begin_time or 0.0
        end = seconds if end_time is None else min(end_time, seconds)
        if round(end * rate) <= round(begin * rate):
            raise InputError(f"{path}: no audio from {begin:g} s on; the file is {seconds:g} s long")
        if end - begin > longest + MISSING_SECONDS:
            raise InputError(f"{path}: {over_long(end - begin)}")
        margin = 0.0 if rate == SAMPLE_RATE else MARGIN_SECONDS
        # Samples before and after resampling coincide every `step` frames of the file; reading starts at such a place.
        step = rate // math.gcd(rate, SAMPLE_RATE)
        first = round(max(begin - margin, 0.0) * rate) // step * step
        last = min(round((end + margin) * rate), file.frames)
        samples = _read(file, path, first, last)
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
    offset = first * SAMPLE_RATE // rate
    piece = samples[round(begin * SAMPLE_RATE) - offset : round(end * SAMPLE_RATE) - offset]
    if not len(piece):
        raise InputError(f"{path}: holds less than one sample from {begin:g} s on; leave out the piece")
    return np.ascontiguousarray(piece)


def is_silent(path: str | Path, begin_time: float = 0.0, end_time: float = math.inf) -> bool:
    """Whether every sample of a file, or of a piece of it, is zero; memory does not grow with its length.

    Args:
        path: as for `decode_audio`.
        begin_time: seconds.
        end_time: seconds; past the end = to the end.

    Raises:
        InputError: as `decode_audio`.
    """
    with _open(path) as file:
        rate = file.samplerate
        last = round(min(end_time, file.frames / rate) * rate)
        count, silent = 0, True
        for first in range(round(begin_time * rate), last, BLOCK_SECONDS * rate):
            samples = _read(file, path, first, min(first + BLOCK_SECONDS * rate, last))
            count += len(samples)
            silent = silent and not samples.any()
    if not count:
        raise InputError(f"{path}: holds no sample from {begin_time:g} s on; leave out the piece")
    return silent


def over_long(seconds: float) -> str:
    """What is wrong with a clip that no model hears at once, with the remedy."""
    return (
        f"the audio is {seconds:.1f} s long and the model hears {LONGEST_CLIP_SECONDS:g} s; "
        "cut it into pieces with `begin_time` and `end_time`"
    )


def duration_of(path: str | Path) -> float:
    """Seconds of a file, from its header.

    Raises:
        InputError: the file is missing or cannot be read.
    """
    with _open(path) as file:
        return float(file.frames / file.samplerate)


def _read(file: soundfile.SoundFile, path: str | Path, first: int, last: int) -> np.ndarray:
    """Frames of a file, channels averaged, float32 `[frames]`; up to `MISSING_SECONDS` may be missing at the end."""
    rate = file.samplerate
    try:
        file.seek(first)
        samples: np.ndarray = file.read(last - first, dtype="float32", always_2d=True).mean(axis=1)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path}: cannot be decoded ({error}); convert or leave out the file") from error
    if len(samples) < last - first - MISSING_SECONDS * rate:
        found, said = (first + len(samples)) / rate, file.frames / rate
        raise InputError(
            f"{path}: ends at {found:.2f} s, its header says {said:.2f} s; replace it if it is cut off, else convert"
        )
    if not np.isfinite(samples).all():
        raise InputError(f"{path}: holds samples that are not finite; leave out the file")
    return samples


def _open(path: str | Path) -> soundfile.SoundFile:
    if not file_of(Path(path)).is_file():
        raise InputError(f"{path}: no such audio file")
    part = slice_of(path)
    try:
        file = soundfile.SoundFile(part.open() if part else os.fsencode(path))
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a headerless .raw file
        reason = error.error_string if isinstance(error, soundfile.LibsndfileError) else error
        raise InputError(f"{path}: not audio that can be read ({reason}); convert or leave out the file") from error
    if file.frames > MAX_FRAMES:
        file.close()
        raise InputError(f"{path}: its header does not say how long it is; write the file anew, not through a pipe")
    return file
