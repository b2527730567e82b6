"""How long a piece of audio is in samples, mel frames, encoder frames and audio tokens.

The only place where these rates are written down. Knows nothing of tensors or of the teacher, whose grid differs.
"""

import numpy as np
from numpy.typing import NDArray

from arkasr.data.audio import LONGEST_CLIP_SECONDS, SAMPLE_RATE, too_long_message
from arkasr.errors import InputError

HOP_LENGTH = 160  # samples between two mel frames: 10 ms
WINDOW_LENGTH = 400  # samples in one STFT window: 25 ms
MAX_SAMPLES = int(LONGEST_CLIP_SECONDS * SAMPLE_RATE)


def clip_of(waveform: NDArray[np.floating]) -> NDArray[np.float32]:
    """A waveform as both model families can hear it: float32, and padded with silence to one analysis window.

    Args:
        waveform: `[samples]`, 16 kHz mono. Less than one mel frame over 30 s is what resampling leaves, and is cut.

    Raises:
        InputError: it is longer than 30 s.
    """
    if len(waveform) >= MAX_SAMPLES + HOP_LENGTH:
        raise InputError(too_long_message(len(waveform) / SAMPLE_RATE))
    clip = np.asarray(waveform, dtype=np.float32)[:MAX_SAMPLES]
    return np.pad(clip, (0, max(WINDOW_LENGTH - len(clip), 0)))


def encoder_frames(frames: int) -> int:
    """Encoder frames (20 ms) of `frames` mel frames, after the convolution of stride 2."""
    return (frames + 1) // 2


def audio_tokens(frames: int, merge_factor: int = 4) -> int:
    """Audio tokens (80 ms at a merge factor of 4) of `frames` mel frames; never fewer than one."""
    return max(encoder_frames(frames) // merge_factor, 1)
