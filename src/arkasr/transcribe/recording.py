"""A recording to transcribe: a file, a part of a file, or a waveform in memory."""

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from arkasr.data.audio import SAMPLE_RATE, check_end_time, decode_audio, duration_in_steps
from arkasr.data.manifests.durations import check_duration
from arkasr.data.manifests.manifest import Utterance
from arkasr.data.slices import version_of
from arkasr.errors import InputError


@dataclass(frozen=True)
class Recording:
    """Audio and its metadata.

    Attributes:
        audio: a file, or a waveform float `[samples]`, 16 kHz mono.
        begin_time: second of the file or waveform at which the recording begins; None = at the start.
        end_time: second at which it ends; None = at the end.
        language: name of the language, for models that need it.
        find_speech: detect speech in short recordings too; else only in recordings that are too long for the model.
        fields: copied to the outputs.
        duration: what the recording's manifest says, in seconds; None = nothing.
    """

    audio: Path | np.ndarray
    begin_time: float | None = None
    end_time: float | None = None
    language: str | None = None
    find_speech: bool = True
    fields: Mapping[str, Any] = field(default_factory=dict)
    duration: float | None = None

    def seconds(self) -> float:
        """Length in seconds.

        Raises:
            InputError: the file cannot be read or does not have the recording's times, or the waveform is not one
                channel of finite floats.
        """
        *_, seconds = self.seconds_in_steps()
        return seconds

    def seconds_in_steps(self) -> Iterator[float]:
        """The length found so far, after each small step of counting; the last number is `seconds`.

        Raises:
            InputError: as `seconds`.
        """
        if isinstance(self.audio, np.ndarray) and not _is_waveform(self.audio):
            raise InputError(
                f"a waveform {self.audio.dtype}{list(self.audio.shape)}: give finite floats of one channel, 16 kHz"
            )
        begin, end = self.begin_time or 0.0, math.inf if self.end_time is None else self.end_time
        length = 0.0
        for length in self._lengths():
            yield min(length, end) - begin
        check_end_time(self.name, self.end_time, length)
        if min(length, end) <= begin:
            raise InputError(f"{self.name}: no audio from {begin:g} s on; it is {length:g} s long")
        check_duration(self.duration, min(length, end) - begin, self.name)

    def identity(self) -> str:
        """A string that differs between recordings, and changes when the file changes.

        Raises:
            InputError: the file does not exist.
        """
        if isinstance(self.audio, np.ndarray):
            return f"waveform:{zlib.crc32(self.audio.tobytes())}:{self.begin_time}:{self.language}"
        return f"{version_of(self.audio)}:{self.begin_time}:{self.language}"

    def read(self, first: int, last: int) -> np.ndarray:
        """The waveform between two samples of the recording, float32 `[samples]`, 16 kHz mono.

        Raises:
            InputError: this part of the file cannot be read.
        """
        if isinstance(self.audio, np.ndarray):
            offset = round((self.begin_time or 0.0) * SAMPLE_RATE)
            return np.asarray(self.audio[offset + first : offset + last], dtype=np.float32)
        begin = self.begin_time or 0.0
        return decode_audio(self.audio, begin + first / SAMPLE_RATE, begin + last / SAMPLE_RATE)

    @property
    def name(self) -> str:
        """The path, or `the waveform`; for messages."""
        return str(self.audio) if isinstance(self.audio, Path) else "the waveform"

    def _lengths(self) -> Iterator[float]:
        """The seconds of the file or waveform, as far as they are counted."""
        if isinstance(self.audio, np.ndarray):
            yield len(self.audio) / SAMPLE_RATE
        else:
            yield from duration_in_steps(self.audio)


def recording_of(utterance: Utterance, *, find_speech: bool = False) -> Recording:
    """The recording of a manifest's utterance."""
    return Recording(
        utterance.audio,
        utterance.begin_time,
        utterance.end_time,
        utterance.language,
        find_speech,
        utterance.fields,
        utterance.duration,
    )


def _is_waveform(audio: np.ndarray) -> bool:
    return audio.ndim == 1 and np.issubdtype(audio.dtype, np.floating) and bool(np.isfinite(audio).all())
