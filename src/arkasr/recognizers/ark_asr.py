"""Ark-ASR as a recogniser: sizes, prompt, features, allowed tokens, and a model with random weights.

The model itself is in `arkasr.model`.
"""

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import WhisperFeatureExtractor

from arkasr.errors import InputError
from arkasr.model.config import ArkAsrConfig
from arkasr.model.frames import audio_tokens
from arkasr.model.generation import FIRST_CODEC_TOKEN_ID, transcription_config
from arkasr.model.model import ArkAsrForConditionalGeneration
from arkasr.model.processor import AUDIO_TOKEN, SPECIAL_TOKENS, STOP_TOKEN, ArkAsrProcessor, transcription_prompt
from arkasr.recognizers.decoder_only import DecoderOnlyRecognizer
from arkasr.recognizers.text import Prefix, blank_before, no_prefix
from arkasr.recognizers.tokenizer import PAD_TOKEN, BaseVocabulary, build_tokenizer

ARK_ASR_PRESETS: dict[str, dict[str, Any]] = {
    "ark-asr-tiny": {
        "hidden_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "intermediate_size": 256,
        "initializer_range": 0.1,
        "max_position_embeddings": 2048,
        "rope_theta": 10_000.0,
        "whisper_config": {
            "num_mel_bins": 80,
            "d_model": 96,
            "encoder_layers": 3,
            "encoder_attention_heads": 3,
            "encoder_ffn_dim": 384,
        },
    },
    "ark-asr-0.6b": {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "max_position_embeddings": 32_768,
        "rope_theta": 1_000_000.0,
        "whisper_config": {
            "num_mel_bins": 128,
            "d_model": 1280,
            "encoder_layers": 32,
            "encoder_attention_heads": 20,
            "encoder_ffn_dim": 5120,
        },
    },
}


class ArkAsr(DecoderOnlyRecognizer):
    """An Ark-ASR model, with prompt and features as in the published checkpoints."""

    model_class = ArkAsrForConditionalGeneration
    parts: ClassVar[Mapping[str, Sequence[str]]] = {
        "encoder": ("audio_encoder.whisper", "audio_encoder.layer_norm"),
        "adapter": ("audio_encoder.adapting",),
        "decoder": ("model.layers", "model.norm"),
        "embeddings": ("model.embed_tokens", "lm_head"),
    }

    def __init__(self, model: ArkAsrForConditionalGeneration, processor: ArkAsrProcessor) -> None:
        self.model = model
        self.processor = processor
        model.generation_config = transcription_config(model.generation_config, processor.tokenizer, self.vocab_size)
        self.stop_token_id = model.generation_config.eos_token_id
        self.allowed_tokens = torch.ones(self.vocab_size, dtype=torch.bool)
        self.allowed_tokens[model.generation_config.suppress_tokens] = False

    @cached_property
    def _prompt(self) -> str:
        return transcription_prompt(self.processor.tokenizer)

    def features(self, waveform: np.ndarray) -> Tensor:
        return self.processor.log_mel(waveform)

    def pad_features(self, features: list[Tensor]) -> dict[str, Tensor]:
        return self.processor.pad_features(features)

    def audio_token_count(self, frames: int) -> int:
        return audio_tokens(frames, self.processor.merge_factor)

    def prompt_text(self, language: str | None) -> str:
        """The same prompt for every language."""
        return self._prompt

    @property
    def transcript_prefix(self) -> Prefix:
        return blank_before if self.processor.leading_blank else no_prefix

    def audio_embeddings(self, audio: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.model.get_audio_features(**audio)

    def padded_audio_embeddings(self, audio: dict[str, Tensor], lengths: Sequence[int]) -> Tensor:
        """The embeddings with their padding. Dropping it would need their number, for which the host would wait."""
        features = audio["audios"].to(self.model.dtype)
        embeddings, _ = self.model.audio_encoder(features, audio["audios_mask"].bool())
        longest = max(lengths)
        if longest > embeddings.shape[1]:
            raise ValueError(f"a prompt holds {longest} audio tokens, the audio has {embeddings.shape[1]}")
        return embeddings[:, :longest]

    @property
    def decoder(self) -> nn.Module:
        return self.model.model

    @property
    def audio_modules(self) -> list[nn.Module]:
        return [self.model.audio_encoder]


def build_ark_asr(sizes: Mapping[str, Any], vocabulary: BaseVocabulary) -> ArkAsr:
    """Build a model with random weights (torch's global generator) for a vocabulary.

    Args:
        sizes: fields of `ArkAsrConfig`, such as a preset. `vocab_size` makes the head wider than the tokenizer, as in
            the published checkpoints.
        vocabulary: the base tokens; the family's own tokens follow them.

    Raises:
        InputError: the vocabulary is so large that some tokens would count as the codec tokens of published models.
    """
    if len(vocabulary.token_to_id) > FIRST_CODEC_TOKEN_ID:
        raise InputError(
            f"the vocabulary has {len(vocabulary.token_to_id):,} tokens; Ark-ASR writes only the first "
            f"{FIRST_CODEC_TOKEN_ID:,}; prune it with tokenizer.pruned_from"
        )
    tokenizer = build_tokenizer(vocabulary, SPECIAL_TOKENS)
    fields = copy.deepcopy(dict(sizes))
    fields.setdefault("rope_parameters", {"rope_type": "default", "rope_theta": fields["rope_theta"]})
    del fields["rope_theta"]
    fields.setdefault("vocab_size", len(tokenizer))
    fields.setdefault("tie_word_embeddings", True)
    config = ArkAsrConfig(
        **fields,
        audio_token_id=tokenizer.convert_tokens_to_ids(AUDIO_TOKEN),
        bos_token_id=tokenizer.convert_tokens_to_ids(PAD_TOKEN),
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD_TOKEN),
        eos_token_id=tokenizer.convert_tokens_to_ids(STOP_TOKEN),
    )
    processor = ArkAsrProcessor(
        WhisperFeatureExtractor(feature_size=config.whisper_config.num_mel_bins),
        tokenizer,
        merge_factor=config.merge_factor,
        leading_blank=vocabulary.leading_blank,
    )
    return ArkAsr(ArkAsrForConditionalGeneration(config), processor)
