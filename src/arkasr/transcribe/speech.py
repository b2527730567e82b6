"""Where a recording holds speech, by Silero's voice activity model (its weights come in its package).

A long recording is looked at in blocks, so that memory does not grow with it. Knows nothing of models that transcribe.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from arkasr.data.audio import SAMPLE_RATE

FRAME_SAMPLES = 512  # one probability for each 32 ms
BLOCK_FRAMES = 18_750  # ten minutes
# Frames around a block that are heard and not kept, because the model needs to have heard something before it judges,
# and something after. Before and after the recording that is silence; one word alone would not be found without.
CONTEXT_FRAMES = 16
SPEECH_THRESHOLD = 0.5
SHORTEST_SPEECH_MS = 64  # two frames: "yes" and "no" are short
SHORTEST_PAUSE_MS = 100
MARGIN_MS = 200  # kept on either side of speech; neighbours share the pause between them where it is shorter


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a recording, in samples at 16 kHz; `end` is not in it."""

    begin: int
    end: int

    @property
    def samples(self) -> int:
        """Length."""
        return self.end - self.begin


def speech_probabilities(read: Callable[[int, int], np.ndarray], samples: int) -> np.ndarray:
    """How likely each frame of a recording holds speech, float32 `[frames]`.

    Args:
        read: the waveform between two samples, float32, 16 kHz mono.
        samples: length of the recording.
    """
    frames = -(-samples // FRAME_SAMPLES)
    blocks = []
    for first in range(0, frames, BLOCK_FRAMES):
        kept = min(BLOCK_FRAMES, frames - first)
        begin, end = (first - CONTEXT_FRAMES) * FRAME_SAMPLES, (first + kept + CONTEXT_FRAMES) * FRAME_SAMPLES
        waveform = read(max(begin, 0), min(end, samples))
        before = max(-begin, 0)
        waveform = np.pad(waveform, (before, max(end - begin - before - len(waveform), 0)))
        blocks.append(_silero().audio_forward(waveform, SAMPLE_RATE)[CONTEXT_FRAMES : CONTEXT_FRAMES + kept])
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)


def speech_spans(probabilities: np.ndarray, samples: int) -> list[Span]:
    """Stretches of speech, in order and without overlap, with a margin of silence on either side."""
    from silero_vad import get_speech_timestamps_from_probs

    found = get_speech_timestamps_from_probs(
        probabilities.tolist(),
        SAMPLE_RATE,
        threshold=SPEECH_THRESHOLD,
        min_speech_duration_ms=SHORTEST_SPEECH_MS,
        min_silence_duration_ms=SHORTEST_PAUSE_MS,
        speech_pad_ms=MARGIN_MS,
        audio_length_samples=samples,
    )
    return [Span(span["start"], min(span["end"], samples)) for span in found]


@lru_cache(maxsize=1)
def _silero() -> Any:
    threads = torch.get_num_threads()
    from silero_vad import load_silero_vad

    torch.set_num_threads(threads)  # importing the package takes all threads but one from torch
    return load_silero_vad(sequence=True)
