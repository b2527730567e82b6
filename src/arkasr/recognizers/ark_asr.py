"""Ark-ASR as a recogniser: the published prompt, features and stop token."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from arkasr.model.frames import audio_tokens
from arkasr.model.generation import transcription_config
from arkasr.model.model import ArkAsrForConditionalGeneration
from arkasr.model.processor import ArkAsrProcessor, transcription_prompt
from arkasr.recognizers.recognizer import Recognizer


class ArkAsr(Recognizer):
    """The student."""

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
        """The one prompt; Ark-ASR is never told the language."""
        return self._prompt

    def audio_embeddings(self, audio: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.model.get_audio_features(**audio)

    def padded_audio_embeddings(self, audio: dict[str, Tensor], lengths: Sequence[int]) -> Tensor:
        """As for every family, without picking out the real ones, whose number the device would have to tell."""
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
