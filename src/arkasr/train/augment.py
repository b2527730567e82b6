"""Augmentation of what is heard and of what the decoder reads, a function of its seed alone."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from arkasr.data.languages import UNSPACED_LANGUAGES
from arkasr.train.settings import AugmentationSettings

FRAMES_IN_TEN_SECONDS = 1_000
LONGEST_FRAMES = 3_000


def augment_features(features: Sequence[Tensor], settings: AugmentationSettings | None, seed: int) -> list[Tensor]:
    """Stretch, warp and mask each clip `[mels, T]` at random; None = leave all as they are."""
    if settings is None:
        return list(features)
    generator = torch.Generator().manual_seed(seed)
    augmented = []
    for clip in features:
        if settings.time_stretch:
            clip = stretch_time(clip, _factor(settings.time_stretch, generator))
        if settings.frequency_warp:
            clip = warp_frequency(clip, _factor(settings.frequency_warp, generator))
        augmented.append(_mask(clip, settings, generator))
    return augmented


def join_utterances(
    features: Sequence[Tensor],
    texts: Sequence[str],
    languages: Sequence[str | None],
    settings: AugmentationSettings | None,
    seed: int,
) -> tuple[list[Tensor], list[str]]:
    """Let a share of the utterances of a batch be followed by another one of the same language, audio and text.

    Args:
        features: log-mel of each utterance, `[mels, T]`.
        texts: their transcripts.
        languages: by name.
        settings: None = leave all as they are.
        seed: decides who is followed by whom.
    """
    joined, written = list(features), list(texts)
    if settings is None or settings.join_share == 0:
        return joined, written
    generator = torch.Generator().manual_seed(seed)
    followed = torch.rand(len(joined), generator=generator) < settings.join_share
    partners = torch.randint(0, len(joined), (len(joined),), generator=generator).tolist()
    for place, partner in enumerate(partners):
        frames = features[place].shape[1] + features[partner].shape[1]
        if followed[place] and languages[place] == languages[partner] and frames <= LONGEST_FRAMES:
            joined[place] = torch.cat((features[place], features[partner]), dim=1)
            between = "" if languages[place] in UNSPACED_LANGUAGES else " "
            written[place] = between.join(filter(None, (texts[place], texts[partner])))
    return joined, written


def stretch_time(clip: Tensor, factor: float) -> Tensor:
    """A clip `[mels, T]` spoken `factor` times as slowly, at most 30 s (or what it has), at the same pitch."""
    frames = clip.shape[1]
    stretched = min(max(round(frames * factor), 1), max(frames, LONGEST_FRAMES))
    return F.interpolate(clip[None], size=stretched, mode="linear", align_corners=False)[0]


def warp_frequency(clip: Tensor, factor: float) -> Tensor:
    """A clip `[mels, T]` whose bin m is what was at `m * factor`: above 1 the vocal tract is longer."""
    source = (torch.arange(clip.shape[0]) * factor).clamp(max=clip.shape[0] - 1)
    below = source.floor().long()
    above = (below + 1).clamp(max=clip.shape[0] - 1)
    share = (source - below)[:, None].to(clip.dtype)
    return clip[below] * (1 - share) + clip[above] * share


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


def _factor(largest_change: float, generator: torch.Generator) -> float:
    return 1 + largest_change * (2 * float(torch.rand((), generator=generator)) - 1)


def _span(length: int, widest: int, generator: torch.Generator) -> tuple[int, int]:
    width = int(torch.randint(0, widest + 1, (), generator=generator))
    start = int(torch.randint(0, length - width + 1, (), generator=generator))
    return start, width
