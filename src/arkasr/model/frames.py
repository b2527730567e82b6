"""Lengths of audio in samples, mel frames, Ark-ASR's encoder frames and its audio tokens.

These rates are defined only here. Encoders of other families have other rates, in `recognizers/`.
"""

import numpy as np
from numpy.typing import NDArray

from arkasr.data.audio import LONGEST_CLIP_SECONDS, SAMPLE_RATE, too_long_message
from arkasr.errors import InputError

HOP_LENGTH = 160  # samples between two mel frames: 10 ms
ENCODER_FRAME_SAMPLES = 2 * HOP_LENGTH  # 20 ms
WINDOW_LENGTH = 400  # samples in one STFT window: 25 ms
MAX_SAMPLES = int(LONGEST_CLIP_SECONDS * SAMPLE_RATE)


def clip_of(waveform: NDArray[np.floating], longest_seconds: float = LONGEST_CLIP_SECONDS) -> NDArray[np.float32]:
    """A waveform for the feature extractors: float32, padded with silence to at least one STFT window.

    Args:
        waveform: `[samples]`, 16 kHz mono. Less than one mel frame beyond `longest_seconds` is cut off.
        longest_seconds: the longest clip that the model takes.

    Raises:
        InputError: the waveform is longer.
    """
    samples = int(longest_seconds * SAMPLE_RATE)
    if len(waveform) >= samples + HOP_LENGTH:
        raise InputError(too_long_message(len(waveform) / SAMPLE_RATE, longest_seconds))
    clip = np.asarray(waveform, dtype=np.float32)[:samples]
    return np.pad(clip, (0, max(WINDOW_LENGTH - len(clip), 0)))


def encoder_frames(frames: int) -> int:
    """Encoder frames (20 ms) of `frames` mel frames, after the convolution of stride 2."""
    return (frames + 1) // 2


def audio_tokens(frames: int, merge_factor: int = 4) -> int:
    """Audio tokens (80 ms at a merge factor of 4) of `frames` mel frames; never fewer than one."""
    return max(encoder_frames(frames) // merge_factor, 1)
