"""Voice activity detection with Silero's model; its weights come with its package.

Recordings are processed in blocks, so memory does not grow with their length.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from arkasr.data.audio import SAMPLE_RATE

# Otherwise ONNX Runtime (from 1.29), which runs Silero's model, reports its use to its makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

FRAME_SAMPLES = 512  # one probability for each 32 ms
BLOCK_FRAMES = 18_750  # ten minutes
# Frames on either side of a block that give the model context; their probabilities are dropped. At the ends of the
# recording the context is silence. Without it, Silero misses single words.
CONTEXT_FRAMES = 16
SPEECH_RMS = 0.1  # of loud speech
SILENT_RMS = 1e-6  # a tenth of the rounding noise of 16-bit audio
LOUD_FRAMES = 5  # the level is that of the fifth loudest frame: a click is no speech
SPEECH_THRESHOLD = 0.5
MIN_SPEECH_MS = 64  # two frames: "yes" and "no" are short
MIN_PAUSE_MS = 100
MARGIN_MS = 200  # added on either side of speech; if a pause is shorter than two margins, both sides share it


@dataclass(frozen=True, slots=True)
class SampleRange:
    """A part of a recording, in samples at 16 kHz; `end` is exclusive."""

    begin: int
    end: int

    @property
    def samples(self) -> int:
        """Length."""
        return self.end - self.begin


def speech_probabilities(read: Callable[[int, int], np.ndarray], samples: int) -> np.ndarray:
    """Probability of speech in each frame of a recording, float32 `[frames]`.

    Args:
        read: returns the waveform between two samples, float32 `[samples]`, 16 kHz mono.
        samples: length of the recording.
    """
    blocks = list(speech_probabilities_of_blocks(read, samples))
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)


def speech_probabilities_of_blocks(read: Callable[[int, int], np.ndarray], samples: int) -> Iterator[np.ndarray]:
    """The probabilities of `speech_probabilities`, a block of ten minutes at a time."""
    frames = -(-samples // FRAME_SAMPLES)
    for first in range(0, frames, BLOCK_FRAMES):
        count = min(BLOCK_FRAMES, frames - first)
        begin, end = (first - CONTEXT_FRAMES) * FRAME_SAMPLES, (first + count + CONTEXT_FRAMES) * FRAME_SAMPLES
        waveform = read(max(begin, 0), min(end, samples))
        missing = max(-begin, 0)
        waveform = at_speech_level(waveform)
        waveform = np.pad(waveform, (missing, max(end - begin - missing - len(waveform), 0)))
        yield _silero().audio_forward(waveform, SAMPLE_RATE)[CONTEXT_FRAMES : CONTEXT_FRAMES + count]


def at_speech_level(waveform: np.ndarray) -> np.ndarray:
    """A copy of float32 `[samples]`, without offset, and at least as loud as normal speech; silence stays silence."""
    count = len(waveform) // FRAME_SAMPLES
    if count < LOUD_FRAMES:
        return waveform
    means = waveform[: count * FRAME_SAMPLES].reshape(count, FRAME_SAMPLES).mean(axis=1)
    centres = (np.arange(count) + 0.5) * FRAME_SAMPLES
    centred = waveform - np.interp(np.arange(len(waveform)), centres, means).astype(np.float32)
    levels = np.sqrt(np.square(centred[: count * FRAME_SAMPLES].reshape(count, FRAME_SAMPLES)).mean(axis=1))
    loud = float(np.partition(levels, -LOUD_FRAMES)[-LOUD_FRAMES])
    # Never quieter: beside a bang, speech would be lost.
    return np.asarray(centred * np.float32(max(SPEECH_RMS / loud, 1.0)) if loud >= SILENT_RMS else centred)


def speech_ranges(probabilities: np.ndarray, samples: int, *, margin_ms: int = MARGIN_MS) -> list[SampleRange]:
    """The speech of a recording, with margins, in order and without overlap."""
    from silero_vad import get_speech_timestamps_from_probs

    found = get_speech_timestamps_from_probs(
        probabilities.tolist(),
        SAMPLE_RATE,
        threshold=SPEECH_THRESHOLD,
        min_speech_duration_ms=MIN_SPEECH_MS,
        min_silence_duration_ms=MIN_PAUSE_MS,
        speech_pad_ms=margin_ms,
        audio_length_samples=samples,
    )
    return [SampleRange(part["start"], min(part["end"], samples)) for part in found]


def open_frame_detector() -> Any:
    """Silero's model for one stream: called with frames `[FRAME_SAMPLES]` in order, it gives probabilities."""
    return _load_silero(onnx=True)


@lru_cache(maxsize=1)
def _silero() -> Any:
    return _load_silero(sequence=True)


def _load_silero(**options: Any) -> Any:
    threads = torch.get_num_threads()
    from silero_vad import load_silero_vad

    torch.set_num_threads(threads)  # importing silero_vad sets it to 1
    return load_silero_vad(**options)
