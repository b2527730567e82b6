"""Ark-ASR as a recogniser: the published prompt, features and stop token."""

from functools import cached_property

import numpy as np
from torch import Tensor, nn

from arkasr.model.allowed import allowed_tokens
from arkasr.model.frames import audio_tokens
from arkasr.model.model import ArkAsrForConditionalGeneration
from arkasr.model.processor import STOP_TOKEN, ArkAsrProcessor, transcription_conversation
from arkasr.model.recognizer import Recognizer

FIRST_CODEC_TOKEN_ID = 151_670  # 12,288 speech-codec tokens follow the text vocabulary of the published models


class ArkAsr(Recognizer):
    """The student."""

    def __init__(self, model: ArkAsrForConditionalGeneration, processor: ArkAsrProcessor) -> None:
        self.model = model
        self.processor = processor
        self.stop_token_id = processor.tokenizer.convert_tokens_to_ids(STOP_TOKEN)
        self.allowed_tokens = allowed_tokens(
            processor.tokenizer,
            self.vocab_size,
            self.stop_token_id,
            first_blocked_id=FIRST_CODEC_TOKEN_ID if self.vocab_size > FIRST_CODEC_TOKEN_ID else None,
        )
        model.generation_config.update(
            eos_token_id=self.stop_token_id,
            pad_token_id=processor.tokenizer.pad_token_id,
            do_sample=False,
            suppress_tokens=(~self.allowed_tokens).nonzero().squeeze(1).tolist(),
        )

    @cached_property
    def _prompt(self) -> str:
        return str(
            self.processor.apply_chat_template(
                transcription_conversation(None), add_generation_prompt=True, tokenize=False
            )
        )

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

    @property
    def audio_modules(self) -> list[nn.Module]:
        return [self.model.audio_encoder]
