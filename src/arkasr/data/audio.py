"""Decodes audio files to 16 kHz mono float32, whole or in pieces; a piece is read by seeking.

A path may refer to a member of a tar (`slices.py`). Manifests and features are left to others.
"""

import math
import os
from pathlib import Path

import numpy as np
import soundfile
import soxr

from arkasr.data.slices import containing_file, parse_slice
from arkasr.errors import InputError

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64")
SAMPLE_RATE = 16_000  # samples per second
LONGEST_CLIP_SECONDS = 30.0  # limit of the audio encoders of student and teacher
# Pieces are read with this margin on either side, so that the resampling filter has its context.
MARGIN_SECONDS = 0.1
# Headers of mp3 files count padding that decoders leave out.
HEADER_TOLERANCE_SECONDS = 0.1
BLOCK_SECONDS = 60  # decoded at once by `is_silent`
# libsndfile reports about 2**63 frames for a stream whose header has no length.
MAX_FRAMES = 2**40


def decode_audio(
    path: str | Path, begin_time: float | None = None, end_time: float | None = None, *, max_seconds: float = math.inf
) -> np.ndarray:
    """Decode a file, or a piece of it, as float32 `[samples]`, 16 kHz mono; channels are averaged.

    A piece equals the same piece of the whole decoded file, up to small differences from resampling and from seeking in
    compressed files.

    Args:
        path: of any format that libsndfile reads (wav, flac, mp3, ogg, …), any rate and number of channels.
        begin_time: seconds; None = from the start.
        end_time: seconds; None = to the end.
        max_seconds: longer audio is refused before it is decoded.

    Raises:
        InputError: the file is missing, unreadable, shorter than its header says, or has non-finite samples; or the
            piece is empty, too long or not in the file.
    """
    with _open(path) as file:
        rate, seconds = file.samplerate, file.frames / file.samplerate
        begin = begin_time or 0.0
        end = seconds if end_time is None else min(end_time, seconds)
        if round(end * rate) <= round(begin * rate):
            raise InputError(f"{path}: no audio after {begin:g} s, the file is {seconds:g} s long; leave it out")
        check_end_time(str(path), end_time, seconds)
        if end - begin > max_seconds + HEADER_TOLERANCE_SECONDS:
            raise InputError(f"{path}: {too_long_message(end - begin)}")
        margin = 0.0 if rate == SAMPLE_RATE else MARGIN_SECONDS
        # Reading starts at a multiple of `step` frames. Input and resampled samples coincide in time only there.
        step = rate // math.gcd(rate, SAMPLE_RATE)
        first = round(max(begin - margin, 0.0) * rate) // step * step
        last = min(round((end + margin) * rate), file.frames)
        samples = _read(file, path, first, last)
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
    offset = first * SAMPLE_RATE // rate
    piece = samples[round(begin * SAMPLE_RATE) - offset : round(end * SAMPLE_RATE) - offset]
    if not len(piece):
        raise InputError(f"{path}: the piece from {begin:g} s is shorter than one sample; leave it out")
    return np.ascontiguousarray(piece)


def check_end_time(name: str, end_time: float | None, seconds: float) -> None:
    """Refuse a piece that ends after its recording.

    Args:
        name: of the recording, for the message.
        end_time: of the piece, in seconds; None = the end of the recording.
        seconds: length of the recording.

    Raises:
        InputError: `end_time` is more than `HEADER_TOLERANCE_SECONDS` after the end.
    """
    if end_time is not None and end_time > seconds + HEADER_TOLERANCE_SECONDS:
        raise InputError(
            f"{name}: no audio at `end_time` {end_time:g} s, it is {seconds:.2f} s long; correct the times"
        )


def is_silent(path: str | Path, begin_time: float = 0.0, end_time: float = math.inf) -> bool:
    """Whether every sample of a file, or of a piece of it, is zero; memory use does not depend on its length.

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
        raise InputError(f"{path}: has no sample after {begin_time:g} s; leave out the piece")
    return silent


def too_long_message(seconds: float, longest_seconds: float = LONGEST_CLIP_SECONDS) -> str:
    """The error message for a clip longer than `longest_seconds`."""
    remedy = "cut it into pieces with `begin_time` and `end_time`"
    if longest_seconds < LONGEST_CLIP_SECONDS:
        remedy += ", or use a model with a longer window"
    return f"the audio is {seconds:.1f} s long, the models take at most {longest_seconds:g} s; {remedy}"


def duration_of(path: str | Path) -> float:
    """Seconds of a file, from its header.

    Raises:
        InputError: the file is missing or cannot be read.
    """
    with _open(path) as file:
        return float(file.frames / file.samplerate)


def _read(file: soundfile.SoundFile, path: str | Path, first: int, last: int) -> np.ndarray:
    """Frames `first` to `last - 1`, channels averaged, float32 `[frames]`.

    The end of a file may be missing by up to `HEADER_TOLERANCE_SECONDS`; the result is shorter then.
    """
    rate = file.samplerate
    try:
        file.seek(first)
        samples: np.ndarray = file.read(last - first, dtype="float32", always_2d=True).mean(axis=1)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path}: cannot be decoded ({error}); convert the file or leave it out") from error
    if len(samples) < last - first - HEADER_TOLERANCE_SECONDS * rate:
        found, expected = (first + len(samples)) / rate, file.frames / rate
        raise InputError(
            f"{path}: ends at {found:.2f} s, its header says {expected:.2f} s; replace it if truncated, else convert it"
        )
    if not np.isfinite(samples).all():
        raise InputError(f"{path}: has samples that are not finite; leave out the file")
    return samples


def _open(path: str | Path) -> soundfile.SoundFile:
    if not containing_file(Path(path)).is_file():
        raise InputError(f"{path}: no such audio file; correct the path")
    part = parse_slice(path)
    try:
        file = soundfile.SoundFile(part.open() if part else os.fsencode(path))
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a headerless .raw file
        reason = error.error_string if isinstance(error, soundfile.LibsndfileError) else error
        raise InputError(f"{path}: not audio that can be read ({reason}); convert the file or leave it out") from error
    if file.frames > MAX_FRAMES:
        file.close()
        raise InputError(f"{path}: its header has no length; write the file again, not through a pipe")
    return file
