"""Which models vLLM can run, and requests with features that are already computed.

vLLM expands the audio placeholders itself, so a request has one placeholder per clip. Weights and
results are left to the engine.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arkasr.errors import InputError
from arkasr.recognizers.decoder_only import DecoderOnlyRecognizer, require_decoder_only
from arkasr.recognizers.recognizer import Prompts, Recognizer

ABSOLUTE_POSITIONS = (
    "arkasr's model in vLLM has no encoder with Whisper's positions (use_rope: false); decode without vLLM "
    "(engine: own)"
)


@dataclass(frozen=True)
class Family:
    """How vLLM takes the input of a model family.

    Attributes:
        features: name of the log-mel features in `Prompts.audio`; their mask is `…_mask`.
        audio: converts the features `[mels, T]` of a clip to the input of vLLM's model class.
        masks_tokens: whether vLLM's model class masks the tokens that no transcript may hold.
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


def require_supported(recognizer: Recognizer) -> DecoderOnlyRecognizer:
    """The recogniser, if vLLM can run its model.

    Raises:
        InputError: it cannot.
    """
    supported = require_decoder_only(recognizer, "engine vllm")
    if not getattr(recognizer.model.config, "use_rope", True):
        raise InputError(f"engine vllm: {ABSOLUTE_POSITIONS}")
    return supported


def family_of(recognizer: Recognizer) -> Family:
    """The family of a recogniser's model."""
    return FAMILIES[recognizer.model.config.model_type]


def requests_for(recognizer: Recognizer, prompts: Prompts) -> list[dict[str, Any]]:
    """One request for every prompt of a batch; `prompts.audio` must hold the log-mel features."""
    family = family_of(recognizer)
    placeholder = recognizer.processor.audio_token_id
    clips = prompts.audio[family.features].cpu()
    frames = prompts.audio[f"{family.features}_mask"].sum(1).tolist()
    requests = []
    for row, real, clip, length in zip(prompts.input_ids, prompts.attention_mask.bool(), clips, frames, strict=True):
        ids = row[real].tolist()
        first = ids.index(placeholder)
        ids[first : first + ids.count(placeholder)] = [placeholder]
        audio = family.audio(clip[:, :length].contiguous())
        requests.append({"prompt_token_ids": ids, "multi_modal_data": {"audio": audio}})
    return requests


def tokens_to_allow(recognizer: Recognizer) -> list[int] | None:
    """The tokens that a transcript may hold; None if vLLM's model class masks the others itself."""
    if family_of(recognizer).masks_tokens:
        return None
    allowed: list[int] = recognizer.allowed_tokens.nonzero().squeeze(1).tolist()
    return allowed


def sampling_parameters(
    recognizer: Recognizer,
    allowed: list[int] | None,
    max_new_tokens: int,
    temperature: float,
    seed: int | None,
    *,
    scored: bool = False,
) -> Any:
    """`vllm.SamplingParams` for one transcript.

    Args:
        recognizer: whose transcript.
        allowed: of `tokens_to_allow`.
        max_new_tokens: cap on its tokens, the stop token included.
        temperature: 0 = the best tokens.
        seed: of sampling.
        scored: whether each token's log-probability is wanted.
    """
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=max_new_tokens,
        stop_token_ids=[recognizer.stop_token_id],
        detokenize=False,
        temperature=temperature,
        seed=seed,
        logprobs=0 if scored else None,
        allowed_token_ids=allowed,
    )
