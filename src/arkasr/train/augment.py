"""Augmentation of what is heard and of what the decoder reads, a function of its seed alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from arkasr.train.settings import AugmentationSettings

FRAMES_IN_TEN_SECONDS = 1_000


def spec_augment(features: Sequence[Tensor], settings: AugmentationSettings | None, seed: int) -> list[Tensor]:
    """Mask random stretches and bands of each clip `[mels, T]` with the clip's mean; None = leave all as they are."""
    if settings is None:
        return list(features)
    generator = torch.Generator().manual_seed(seed)
    return [_mask(clip, settings, generator) for clip in features]


def replace_tokens(transcripts: Sequence[Tensor], settings: AugmentationSettings | None, seed: int) -> Sequence[Tensor]:
    """Put a random token of the batch in place of a share of the tokens of each transcript `[n]`."""
    if settings is None or settings.token_noise == 0:
        return transcripts
    generator = torch.Generator().manual_seed(seed)
    pool = torch.cat(list(transcripts))
    noisy = []
    for transcript in transcripts:
        drawn = pool[torch.randint(0, len(pool), transcript.shape, generator=generator)]
        replaced = torch.rand(transcript.shape, generator=generator) < settings.token_noise
        noisy.append(torch.where(replaced, drawn, transcript))
    return noisy


def _mask(clip: Tensor, settings: AugmentationSettings, generator: torch.Generator) -> Tensor:
    masked, mean = clip.clone(), clip.mean()
    mels, frames = clip.shape
    stretches = -(-settings.time_masks * frames // FRAMES_IN_TEN_SECONDS)
    for _ in range(stretches):
        start, width = _span(frames, min(settings.time_width, frames // 4), generator)
        masked[:, start : start + width] = mean
    for _ in range(settings.frequency_masks):
        start, width = _span(mels, settings.frequency_width, generator)
        masked[start : start + width] = mean
    return masked


def _span(length: int, widest: int, generator: torch.Generator) -> tuple[int, int]:
    width = int(torch.randint(0, widest + 1, (), generator=generator))
    start = int(torch.randint(0, length - width + 1, (), generator=generator))
    return start, width
