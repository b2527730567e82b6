"""Synthesises utterances: a specification goes in, a FLAC file and its duration come out.

The audio depends only on the specification and its set's babble, not on the process or on earlier utterances.
Sentences and manifests are left to others.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from arkasr.data.audio import SAMPLE_RATE
from arkasr.data.corpora.espeak import ESPEAK_SAMPLE_RATE, Voice, speak
from arkasr.data.corpora.speakers import Speaker
from arkasr.data.corpora.specs import UtteranceSpec
from arkasr.data.degradation import effects

_PAUSE_SECONDS = (0.06, 0.25)  # before and after the speech
_PEAK_DB = (-15.0, -2.0)  # of the finished recording, relative to full scale
_NOISE_FLOOR_SNR_DB = (40.0, 55.0)  # every microphone adds some noise
_FULL_SCALE = 32768
_MAX_CACHED_BABBLERS = 256


def write_recordings(
    utterances: Sequence[UtteranceSpec], babble: Sequence[tuple[str, Speaker]], folder: Path
) -> list[float]:
    """Synthesises `utterances` into `folder/<id>.flac` (16 kHz, 16 bit); returns their durations in seconds."""
    durations = []
    for utterance in utterances:
        samples = synthesise(utterance, babble)
        soundfile.write(folder / f"{utterance.id}.flac", samples, SAMPLE_RATE, subtype="PCM_16")
        durations.append(len(samples) / SAMPLE_RATE)
    return durations


def synthesise(utterance: UtteranceSpec, babble: Sequence[tuple[str, Speaker]]) -> np.ndarray:
    """The recording of an utterance: int16 `[samples]` at 16 kHz."""
    rng = np.random.default_rng(utterance.seed)
    before, after = (int(pause * SAMPLE_RATE) for pause in rng.uniform(*_PAUSE_SECONDS, size=2))
    speech = np.pad(_clean_speech(utterance.text, utterance.voice), (before, after))
    speech = effects.mix(speech, effects.coloured_noise(len(speech), rng, 1.0), rng.uniform(*_NOISE_FLOOR_SNR_DB))
    background = _background_speech(utterance, babble) if utterance.condition.babble_snr else []
    speech = utterance.condition.apply(speech, background, rng)
    normalised = effects.normalise(speech, rng.uniform(*_PEAK_DB))
    return np.round(normalised * _FULL_SCALE).astype(np.int16)


def _background_speech(utterance: UtteranceSpec, babble: Sequence[tuple[str, Speaker]]) -> list[np.ndarray]:
    """The babble of the other speakers of the same language."""
    return [
        _babbler(text, speaker.voice)
        for text, speaker in babble
        if speaker.language == utterance.speaker.language and speaker.id != utterance.speaker.id
    ]


@lru_cache(maxsize=_MAX_CACHED_BABBLERS)
def _babbler(text: str, voice: Voice) -> np.ndarray:
    return _clean_speech(text, voice)


def _clean_speech(text: str, voice: Voice) -> np.ndarray:
    """float32 `[samples]` at 16 kHz."""
    spoken = speak(text, voice).astype(np.float32) / _FULL_SCALE
    resampled: np.ndarray = soxr.resample(spoken, ESPEAK_SAMPLE_RATE, SAMPLE_RATE)
    return resampled
