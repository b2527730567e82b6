"""Augmentation of what is heard and of what the decoder reads, a function of its seed alone.

All frontends of an utterance hear the same change. Each kind of change draws from a seed of its own, and each
utterance, too, so that none of them decides another.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from arkasr.data.examples import Example
from arkasr.data.languages import UNSPACED_LANGUAGES
from arkasr.data.manifests.manifest import Utterance
from arkasr.train.settings import AugmentationSettings

FRAMES_IN_TEN_SECONDS = 1_000
LONGEST_FRAMES = 3_000


def augment_features(examples: Sequence[Example], settings: AugmentationSettings | None, seed: int) -> list[Example]:
    """Stretch, warp and mask each utterance at random; None = leave all as they are.

    A mask of frequencies is drawn in mel bins, and so covers another band where frontends have other bins.
    """
    if settings is None:
        return list(examples)
    return [
        replace(
            example,
            features={
                frontend: _changed(clip, settings, generator_for("features", seed, place))
                for frontend, clip in example.features.items()
            },
        )
        for place, example in enumerate(examples)
    ]


def join_utterances(examples: Sequence[Example], settings: AugmentationSettings | None, seed: int) -> list[Example]:
    """Let a share of the utterances of a batch be followed by another one of the same language, audio and text.

    Args:
        examples: of a batch.
        settings: None = leave all as they are.
        seed: decides who is followed by whom.
    """
    if settings is None or settings.join_share == 0:
        return list(examples)
    generator = generator_for("join", seed)
    followed = torch.rand(len(examples), generator=generator) < settings.join_share
    # Never by itself: that would teach it to say everything twice.
    ahead = torch.randint(1, max(len(examples), 2), (len(examples),), generator=generator)
    partners = ((torch.arange(len(examples)) + ahead) % len(examples)).tolist()
    return [
        _joined(example, examples[partner]) if follows and _may_follow(example, examples[partner]) else example
        for example, partner, follows in zip(examples, partners, followed.tolist(), strict=True)
    ]


def join_texts(utterances: Sequence[Utterance], texts: Sequence[str]) -> str:
    """Texts of utterances that follow one another, with blanks between them where their language has any."""
    between = "" if utterances[0].language in UNSPACED_LANGUAGES else " "
    return between.join(filter(None, texts))


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
    generator = generator_for("tokens", seed)
    pool = torch.cat(list(transcripts))
    noisy = []
    for transcript in transcripts:
        drawn = pool[torch.randint(0, len(pool), transcript.shape, generator=generator)]
        replaced = torch.rand(transcript.shape, generator=generator) < settings.token_noise
        noisy.append(torch.where(replaced, drawn, transcript))
    return noisy


def generator_for(purpose: str, seed: int, place: int = 0) -> torch.Generator:
    """A generator of its own for every purpose, seed and place."""
    digest = hashlib.sha256(f"{purpose}:{seed}:{place}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


def _may_follow(example: Example, partner: Example) -> bool:
    if partner is example or example.utterance.language != partner.utterance.language:
        return False
    frames = (example.features[name].shape[1] + partner.features[name].shape[1] for name in example.features)
    return max(frames) <= LONGEST_FRAMES


def _joined(example: Example, partner: Example) -> Example:
    parts = (example.utterance, partner.utterance)
    texts = [part.text for part in parts if part.text is not None]
    utterance = replace(
        example.utterance,
        id="+".join(part.id for part in parts),
        text=join_texts(parts, texts) if len(texts) == len(parts) else None,
    )
    features = {name: torch.cat((clip, partner.features[name]), dim=1) for name, clip in example.features.items()}
    return Example(utterance, features, joined_from=parts)


def _changed(clip: Tensor, settings: AugmentationSettings, generator: torch.Generator) -> Tensor:
    if settings.time_stretch:
        clip = stretch_time(clip, _factor(settings.time_stretch, generator))
    if settings.frequency_warp:
        clip = warp_frequency(clip, _factor(settings.frequency_warp, generator))
    return _mask(clip, settings, generator)


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
