"""How long a piece of audio is in samples, mel frames, encoder frames and audio tokens.

The only place where these rates are written down. Knows nothing of tensors or of the teacher, whose grid differs.
"""

SAMPLE_RATE = 16_000  # samples a second
HOP_LENGTH = 160  # samples between two mel frames: 10 ms
WINDOW_LENGTH = 400  # samples in one STFT window: 25 ms
MAX_AUDIO_SECONDS = 30
MAX_SAMPLES = MAX_AUDIO_SECONDS * SAMPLE_RATE


def mel_frames(samples: int) -> int:
    """Mel frames of a clip of `samples` samples; what exceeds 30 seconds is not heard."""
    return min(samples, MAX_SAMPLES) // HOP_LENGTH


def encoder_frames(frames: int) -> int:
    """Encoder frames (20 ms) of `frames` mel frames, after the convolution of stride 2."""
    return (frames + 1) // 2


def audio_tokens(frames: int, merge_factor: int = 4) -> int:
    """Audio tokens (80 ms at a merge factor of 4) of `frames` mel frames; never fewer than one."""
    return max(encoder_frames(frames) // merge_factor, 1)
