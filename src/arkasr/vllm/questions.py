"""From this package's prompts to requests for vLLM, in either family, features as they are.

vLLM puts in the audio placeholders itself, so a request holds one. Knows nothing of weights or answers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arkasr.recognizers.recognizer import Prompts, Recognizer


@dataclass(frozen=True)
class Family:
    """What vLLM takes of a family.

    Attributes:
        features: name of the log-mel features among the model's audio arguments; their mask is called `…_mask`.
        audio: the features `[mels, T]` of a clip as vLLM's class of the family takes them.
        masks_tokens: vLLM's class of the family itself keeps tokens out that no transcript may hold.
    """

    features: str
    audio: Callable[[Tensor], Any]
    masks_tokens: bool


def _qwen3_asr_audio(clip: Tensor) -> dict[str, Tensor]:
    frames = clip.shape[1]
    return {
        "input_audio_features": clip,
        "audio_feature_lengths": torch.tensor([frames]),
        "feature_attention_mask": torch.ones(1, frames, dtype=torch.long),
    }


FAMILIES = {
    "arkasr": Family("audios", lambda clip: [clip], masks_tokens=True),
    "qwen3_asr": Family("input_features", _qwen3_asr_audio, masks_tokens=False),
}


def family_of(recognizer: Recognizer) -> Family:
    """The family of a recogniser's model."""
    return FAMILIES[recognizer.model.config.model_type]


def questions(recognizer: Recognizer, prompts: Prompts) -> list[dict[str, Any]]:
    """One request for every prompt of a batch, whose features must be among its audio."""
    family = family_of(recognizer)
    placeholder = recognizer.processor.audio_token_id
    clips = prompts.audio[family.features].cpu()
    frames = prompts.audio[f"{family.features}_mask"].sum(1).tolist()
    asked = []
    for row, real, clip, length in zip(prompts.input_ids, prompts.attention_mask.bool(), clips, frames, strict=True):
        ids = row[real].tolist()
        place = ids.index(placeholder)
        ids[place : place + ids.count(placeholder)] = [placeholder]
        audio = family.audio(clip[:, :length].contiguous())
        asked.append({"prompt_token_ids": ids, "multi_modal_data": {"audio": audio}})
    return asked
