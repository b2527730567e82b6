"""Durations of utterances, from the manifest or measured, and audio whose duration agrees with the manifest."""

import numpy as np
from numpy.typing import NDArray

from arkasr.data.audio import LONGEST_CLIP_SECONDS, SAMPLE_RATE, decode_audio, duration_of
from arkasr.data.manifests.manifest import DURATION_TOLERANCE, Utterance
from arkasr.errors import InputError


def decode_utterance(utterance: Utterance) -> NDArray[np.float32]:
    """The audio of an utterance, float32 `[samples]`, 16 kHz mono, at most 30 s.

    Raises:
        InputError: it cannot be read, is too long, or the manifest's `duration` is wrong.
    """
    times = (utterance.begin_time, utterance.end_time)
    waveform = decode_audio(utterance.audio, *times, max_seconds=LONGEST_CLIP_SECONDS)
    check_duration(utterance.duration, len(waveform) / SAMPLE_RATE, str(utterance.audio))
    return waveform


def check_duration(duration: float | None, seconds: float, name: str) -> None:
    """Check that the `duration` in a manifest is that of the audio.

    Args:
        duration: in seconds; None = the manifest has none.
        seconds: of the audio.
        name: of the audio, for the message.

    Raises:
        InputError: they differ.
    """
    if duration is not None and abs(duration - seconds) > DURATION_TOLERANCE:
        raise InputError(f"{name}: `duration` is {duration:g} s, but the audio is {seconds:.2f} s long; correct it")


def seconds_of(utterance: Utterance) -> float:
    """Seconds of an utterance: `duration` of its manifest line, else measured.

    Raises:
        InputError: the file cannot be read.
    """
    return utterance.duration or segment_duration(utterance)


def segment_duration(utterance: Utterance) -> float:
    """Seconds of an utterance, measured from its times or the file's header.

    Raises:
        InputError: the file cannot be read.
    """
    begin = utterance.begin_time or 0.0
    end = utterance.end_time if utterance.end_time is not None else duration_of(utterance.audio)
    return max(end - begin, 0.0)
