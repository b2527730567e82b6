"""Decodes audio files to 16 kHz mono float32, whole or in pieces; a piece is read by seeking.

A path may refer to a member of a tar (`slices.py`). Manifests and features are left to others.
"""

import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from arkasr.data.decoders.choose import open_decoder
from arkasr.data.decoders.decoder import HEADER_TOLERANCE_SECONDS, joined_blocks
from arkasr.data.mono import SAMPLE_RATE as SAMPLE_RATE
from arkasr.data.mono import mono
from arkasr.errors import InputError

# A folder or a tar is searched for files with these suffixes.
AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".rf64"),
    *(".m4a", ".m4b", ".aac", ".wma", ".asf", ".amr", ".awb", ".ac3", ".eac3", ".dts", ".ape", ".wv", ".tta", ".mka"),
    *(".weba", ".mp2", ".sph", ".spx", ".voc", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".wmv", ".3gp", ".3g2"),
    *(".flv", ".mpg", ".mpeg", ".mts", ".m2ts", ".ogv"),
)
LONGEST_CLIP_SECONDS = 30.0  # limit of the audio encoders of student and teacher
# Pieces are read with this margin on either side, so that the resampling filter has its context.
MARGIN_SECONDS = 0.1


def decode_audio(
    path: str | Path,
    begin_time: float | None = None,
    end_time: float | None = None,
    *,
    max_seconds: float = math.inf,
    may_end_early: bool = False,
) -> NDArray[np.float32]:
    """Decode a file, or a piece of it, as float32 `[samples]`, 16 kHz mono.

    Channels are averaged. If that makes the piece much quieter than its loudest channel, this channel is taken: one
    channel may be inverted. Memory grows with the samples that are returned, whatever the file's rate and channels.

    A piece equals the same piece of the whole decoded file, up to small differences from resampling. Decoders of some
    formats (AAC, AC-3) fill quiet bands with random noise, which is another one each time.

    Args:
        path: of any format that the decoders read, videos included; any rate and number of channels.
        begin_time: seconds; None = from the start.
        end_time: seconds; None = to the end.
        max_seconds: longer audio is refused; no more than a second of the rest is decoded.
        may_end_early: whether `end_time` may be after the end of the file.

    Raises:
        InputError: the file is missing, unreadable, shorter than its header says, or has non-finite samples; or the
            piece is empty, too long or not in the file.
    """
    begin = begin_time or 0.0
    with closing(open_decoder(path)) as file:
        rate = file.rate
        margin = 0.0 if rate == SAMPLE_RATE else MARGIN_SECONDS
        # Reading starts at a multiple of `step` frames. Input and resampled samples coincide in time only there.
        step = rate // math.gcd(rate, SAMPLE_RATE)
        first = round(max(begin - margin, 0.0) * rate) // step * step
        longest = begin + max_seconds + HEADER_TOLERANCE_SECONDS
        end_of_reading = min(longest + 1 if end_time is None else end_time, longest + 1) + margin
        last = None if math.isinf(end_of_reading) else round(end_of_reading * rate)

        def blocks() -> Iterator[NDArray[np.float32]]:
            for block in joined_blocks(file, first, last):
                _check_finite(path, block)
                yield block

        samples, count = mono(blocks, rate)
        found = (first + count) / rate
        end = found if end_time is None else min(end_time, found)
        if round(end * rate) <= round(begin * rate):
            seconds = file.frames / rate
            raise InputError(f"{path}: no audio after {begin:g} s, the file is {seconds:g} s long; leave it out")
        if end > longest:
            end = file.frames / rate if end_time is None else end_time
            raise InputError(f"{path}: {too_long_message(end - begin)}")
        if not may_end_early:
            check_end_time(str(path), end_time, found)
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


def is_silent(path: str | Path, begin_time: float = 0.0, end_time: float | None = None) -> bool:
    """Whether every sample of a file, or of a piece of it, is zero; memory use does not depend on its length.

    Args:
        path: as for `decode_audio`.
        begin_time: seconds.
        end_time: seconds; None = to the end.

    Raises:
        InputError: as `decode_audio`.
    """
    with closing(open_decoder(path)) as file:
        last = file.frames if end_time is None else min(round(end_time * file.rate), file.frames)
        count, silent = 0, True
        for samples in file.blocks(round(begin_time * file.rate), last):
            _check_finite(path, samples)
            count += samples.shape[1]
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
    """Seconds of a file, counted if its header may be wrong.

    Raises:
        InputError: the file is missing or cannot be read.
    """
    *_, seconds = duration_in_steps(path)
    return seconds


def duration_in_steps(path: str | Path) -> Iterator[float]:
    """The seconds of a file found so far, after each small step of counting; the last number is its length.

    Raises:
        InputError: as `duration_of`.
    """
    with closing(open_decoder(path)) as file:
        for frames in file.counted_frames():
            yield frames / file.rate


def _check_finite(path: str | Path, samples: NDArray[np.float32]) -> None:
    if not np.isfinite(samples).all():
        raise InputError(f"{path}: has samples that are not finite; leave out the file")
