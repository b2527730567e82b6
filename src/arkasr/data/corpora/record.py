"""Speaks and records planned utterances: a line goes in, a FLAC file and its duration come out.

What a line sounds like depends on the line and its set's babble only, never on what was recorded before it or
by which process. Knows nothing of how lines are planned or how manifests are written.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from arkasr.data.audio import SAMPLE_RATE
from arkasr.data.corpora import degrade
from arkasr.data.corpora.espeak import ESPEAK_SAMPLE_RATE, Voice, speak
from arkasr.data.corpora.plan import Line
from arkasr.data.corpora.speakers import Speaker

_PAUSE_SECONDS = (0.06, 0.25)  # before and after the speech
_PEAK_DB = (-15.0, -2.0)  # of the finished recording, under full scale
_FLOOR_SNR_DB = (40.0, 55.0)  # no microphone is without any noise
_FULL_SCALE = 32768
_MAX_CACHED_VOICES = 256


def record_lines(lines: Sequence[Line], babble: Sequence[tuple[str, Speaker]], folder: Path) -> list[float]:
    """Records `lines` into `folder/<id>.flac` (16 kHz, 16 bit); the duration of each, in seconds."""
    durations = []
    for line in lines:
        samples = record(line, babble)
        soundfile.write(folder / f"{line.id}.flac", samples, SAMPLE_RATE, subtype="PCM_16")
        durations.append(len(samples) / SAMPLE_RATE)
    return durations


def record(line: Line, babble: Sequence[tuple[str, Speaker]]) -> np.ndarray:
    """The recording of a line: int16 `[samples]` at 16 kHz."""
    rng = np.random.default_rng(line.seed)
    before, after = (int(pause * SAMPLE_RATE) for pause in rng.uniform(*_PAUSE_SECONDS, size=2))
    speech = np.pad(_clean_speech(line.text, line.voice), (before, after))
    speech = degrade.mix(speech, degrade.coloured_noise(len(speech), rng, 1.0), rng.uniform(*_FLOOR_SNR_DB))
    others = _others(line, babble) if line.condition.babble_snr else []
    speech = line.condition.record(speech, others, rng)
    loud = degrade.normalise(speech, rng.uniform(*_PEAK_DB))
    return np.round(loud * _FULL_SCALE).astype(np.int16)


def _others(line: Line, babble: Sequence[tuple[str, Speaker]]) -> list[np.ndarray]:
    """What the others say in the language of the line."""
    return [
        _babbler(text, speaker.voice)
        for text, speaker in babble
        if speaker.language == line.speaker.language and speaker.id != line.speaker.id
    ]


@lru_cache(maxsize=_MAX_CACHED_VOICES)
def _babbler(text: str, voice: Voice) -> np.ndarray:
    return _clean_speech(text, voice)


def _clean_speech(text: str, voice: Voice) -> np.ndarray:
    """float32 `[samples]` at 16 kHz."""
    spoken = speak(text, voice).astype(np.float32) / _FULL_SCALE
    resampled: np.ndarray = soxr.resample(spoken, ESPEAK_SAMPLE_RATE, SAMPLE_RATE)
    return resampled
