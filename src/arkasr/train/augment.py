"""Augmentation of features and of decoder inputs, as a function of a seed.

All frontends of an utterance use the same random numbers; their frequency masks may cover different bands. Joining,
changes of features and token noise have separate random generators, so that they are independent of each other.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from arkasr.data.audio import LONGEST_CLIP_SECONDS, SAMPLE_RATE
from arkasr.data.examples import Example, degraded_name
from arkasr.data.languages import UNSPACED_LANGUAGES
from arkasr.data.manifests.manifest import Utterance
from arkasr.model.frames import HOP_LENGTH
from arkasr.recognizers.recognizer import Recognizer
from arkasr.train.settings import AugmentationSettings

FRAMES_IN_TEN_SECONDS = 1_000
MAX_FRAMES = 3_000  # 30 s, the longest clip of most models


def augment_features(
    examples: Sequence[Example],
    settings: AugmentationSettings | None,
    seed: int,
    recognizers: Sequence[Recognizer] = (),
) -> list[Example]:
    """Stretch, warp and mask each utterance at random.

    Frequency masks count mel bins. They cover different bands of Hz for frontends with different numbers of bins.

    Args:
        examples: of a batch.
        settings: None = no change.
        seed: determines the changes.
        recognizers: the models that read the features. Their padding frames do not change, and no clip becomes longer
            than each of them takes.
    """
    if settings is None:
        return list(examples)
    padding = {
        name: recognizer.padding_frames
        for recognizer in recognizers
        for name in (recognizer.frontend, degraded_name(recognizer.frontend))
    }
    max_frames = _max_frames(recognizers)

    def augmented(frontend: str, clip: Tensor, index: int) -> Tensor:
        generator = generator_for("features", seed, index)
        return _augmented(clip, settings, generator, padding.get(frontend, 0), max_frames)

    return [
        replace(
            example,
            features={frontend: augmented(frontend, clip, index) for frontend, clip in example.features.items()},
        )
        for index, example in enumerate(examples)
    ]


def join_utterances(
    examples: Sequence[Example],
    settings: AugmentationSettings | None,
    seed: int,
    recognizers: Sequence[Recognizer] = (),
) -> list[Example]:
    """Append another utterance of the batch, audio and text, to a share of the utterances.

    Joined utterances have the same language. Pairs that are longer than the models take (30 s, or their window) are not
    joined, nor those with more text than the student can write.

    Args:
        examples: of a batch.
        settings: None = no change.
        seed: determines the pairs.
        recognizers: the models that read the features, the student first.
    """
    if settings is None or settings.join_share == 0:
        return list(examples)
    generator = generator_for("join", seed)
    selected = torch.rand(len(examples), generator=generator) < settings.join_share
    # Never 0: an utterance that follows itself would teach the model to repeat.
    offsets = torch.randint(1, max(len(examples), 2), (len(examples),), generator=generator)
    partners = ((torch.arange(len(examples)) + offsets) % len(examples)).tolist()
    max_frames, student = _max_frames(recognizers), next(iter(recognizers), None)
    joined = []
    for example, index, join in zip(examples, partners, selected.tolist(), strict=True):
        can_join = join and _can_join(example, examples[index], student, max_frames)
        joined.append(_joined(example, examples[index]) if can_join else example)
    return joined


def join_texts(utterances: Sequence[Utterance], texts: Sequence[str]) -> str:
    """The texts of joined utterances, with spaces between them if their language uses spaces."""
    separator = "" if utterances[0].language in UNSPACED_LANGUAGES else " "
    return separator.join(filter(None, texts))


def stretch_time(clip: Tensor, factor: float, max_frames: int = MAX_FRAMES) -> Tensor:
    """Stretch a clip `[mels, T]` to `factor` times its length at the same pitch.

    The result has at most `max_frames` frames, or as many as the clip if the clip has more.
    """
    frames = clip.shape[1]
    stretched = min(max(round(frames * factor), 1), max(frames, max_frames))
    return F.interpolate(clip[None], size=stretched, mode="linear", align_corners=False)[0]


def warp_frequency(clip: Tensor, factor: float) -> Tensor:
    """Move the content at mel bin `m * factor` of a clip `[mels, T]` to bin m; above 1 = a longer vocal tract."""
    source = (torch.arange(clip.shape[0]) * factor).clamp(max=clip.shape[0] - 1)
    below = source.floor().long()
    above = (below + 1).clamp(max=clip.shape[0] - 1)
    share = (source - below)[:, None].to(clip.dtype)
    return clip[below] * (1 - share) + clip[above] * share


def replace_tokens(transcripts: Sequence[Tensor], settings: AugmentationSettings | None, seed: int) -> Sequence[Tensor]:
    """Replace a share of the tokens of each transcript, int64 `[n]`, with random tokens of the batch."""
    if settings is None or settings.token_noise == 0:
        return transcripts
    generator = generator_for("tokens", seed)
    pool = torch.cat(list(transcripts))
    noisy = []
    for transcript in transcripts:
        random_tokens = pool[torch.randint(0, len(pool), transcript.shape, generator=generator)]
        replaced = torch.rand(transcript.shape, generator=generator) < settings.token_noise
        noisy.append(torch.where(replaced, random_tokens, transcript))
    return noisy


def generator_for(purpose: str, seed: int, index: int = 0) -> torch.Generator:
    """A random generator that is independent for every purpose, seed and index."""
    digest = hashlib.sha256(f"{purpose}:{seed}:{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


def _max_frames(recognizers: Sequence[Recognizer]) -> int:
    """Mel frames of the longest clip that all models take."""
    longest = min((recognizer.longest_clip_seconds for recognizer in recognizers), default=LONGEST_CLIP_SECONDS)
    return int(longest * SAMPLE_RATE / HOP_LENGTH)


def _can_join(example: Example, partner: Example, student: Recognizer | None, max_frames: int) -> bool:
    if partner is example or example.utterance.language != partner.utterance.language:
        return False
    frames = (example.features[name].shape[1] + partner.features[name].shape[1] for name in example.features)
    if max(frames) > max_frames:
        return False
    if student is None or student.longest_transcript is None:
        return True
    text = _joined_text((example.utterance, partner.utterance))
    return text is None or student.can_write(len(student.transcript_ids(text)))


def _joined(example: Example, partner: Example) -> Example:
    parts = (example.utterance, partner.utterance)
    utterance = replace(example.utterance, id="+".join(part.id for part in parts), text=_joined_text(parts))
    features = {name: torch.cat((clip, partner.features[name]), dim=1) for name, clip in example.features.items()}
    return Example(utterance, features, joined_from=parts)


def _joined_text(parts: Sequence[Utterance]) -> str | None:
    """The text of joined utterances; None if one of them has none."""
    texts = [part.text for part in parts if part.text is not None]
    return join_texts(parts, texts) if len(texts) == len(parts) else None


def _augmented(
    clip: Tensor, settings: AugmentationSettings, generator: torch.Generator, padding_frames: int, max_frames: int
) -> Tensor:
    if padding_frames:
        sound, padding = clip.split([clip.shape[1] - padding_frames, padding_frames], dim=1)
        return torch.cat((_augmented(sound, settings, generator, 0, max_frames - padding_frames), padding), dim=1)
    if settings.time_stretch:
        clip = stretch_time(clip, _factor(settings.time_stretch, generator), max_frames)
    if settings.frequency_warp:
        clip = warp_frequency(clip, _factor(settings.frequency_warp, generator))
    return _mask(clip, settings, generator)


def _mask(clip: Tensor, settings: AugmentationSettings, generator: torch.Generator) -> Tensor:
    masked, mean = clip.clone(), clip.mean()
    mels, frames = clip.shape
    time_masks = -(-settings.time_masks * frames // FRAMES_IN_TEN_SECONDS)
    for _ in range(time_masks):
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
