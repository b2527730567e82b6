"""Recognisers whose language model reads the audio as embeddings in its prompt, at the places of placeholder tokens.

Ark-ASR and Qwen3-ASR are of this kind. A family adds its prompt, its features and its encoder.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

from torch import Tensor
from transformers import DynamicCache

from arkasr.errors import InputError
from arkasr.model.placeholders import fill_padded
from arkasr.recognizers.recognizer import Prompts, Recognizer, padded_left


def require_decoder_only(recognizer: Recognizer, purpose: str) -> "DecoderOnlyRecognizer":
    """The recogniser, if its language model reads audio in its prompt.

    Raises:
        InputError: it does not; the message begins with `purpose`.
    """
    if not isinstance(recognizer, DecoderOnlyRecognizer):
        raise InputError(f"{purpose}: works with Ark-ASR and Qwen3-ASR, not with {recognizer.model.config.model_type}")
    return recognizer


class DecoderOnlyRecognizer(Recognizer):
    """A decoder-only language model behind an audio encoder. `prompt_text` has one audio placeholder."""

    @abstractmethod
    def audio_token_count(self, frames: int) -> int:
        """Audio tokens in the prompt of a clip of `frames` mel frames."""

    @abstractmethod
    def audio_embeddings(self, audio: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The valid audio embeddings of all clips in order, `[sum N, H]`, and their number per clip `[B]`."""

    @abstractmethod
    def padded_audio_embeddings(self, audio: dict[str, Tensor], lengths: Sequence[int]) -> Tensor:
        """`audio_embeddings` padded on the right with arbitrary values, `[B, N, H]`.

        Args:
            audio: as for `audio_embeddings`.
            lengths: audio tokens of each clip, given because reading them from the device would make the host wait.

        Raises:
            ValueError: the audio does not have as many tokens as `lengths` says (Ark-ASR notices only too few).
        """

    def embed_audio(self, prompts: Prompts) -> Prompts:
        if "embeddings" in prompts.audio:
            return prompts
        embeddings = self.padded_audio_embeddings(prompts.audio, prompts.audio_lengths)
        return replace(prompts, audio=prompts.audio | {"embeddings": embeddings})

    def decoder_inputs(self, input_ids: Tensor, audio: dict[str, Tensor]) -> dict[str, Tensor]:
        embedded = self.model.get_input_embeddings()(input_ids)
        if audio:
            placeholders = input_ids == self.processor.audio_token_id
            embedded = fill_padded(embedded, placeholders, audio["embeddings"])
        return {"inputs_embeds": embedded}

    def new_cache(self) -> DynamicCache:
        return DynamicCache(config=cast(Any, self.decoder).config)

    def prompt_parts(self, language: str | None) -> tuple[list[int], list[int]]:
        """Token ids of the prompt before and after the audio."""
        if language not in self._prompt_parts:
            ids = self.tokenizer(self.prompt_text(language), add_special_tokens=False)["input_ids"]
            index = ids.index(self.processor.audio_token_id)
            self._prompt_parts[language] = ids[:index], ids[index + 1 :]
        return self._prompt_parts[language]

    @cached_property
    def _prompt_parts(self) -> dict[str | None, tuple[list[int], list[int]]]:
        return {}

    def prompt_ids(self, frames: int, language: str | None) -> list[int]:
        """Token ids of the prompt for a clip of `frames` mel frames."""
        before, after = self.prompt_parts(language)
        return [*before, *[self.processor.audio_token_id] * self.audio_token_count(frames), *after]

    def prompts(self, features: list[Tensor], languages: Sequence[str | None]) -> Prompts:
        rows = [self.prompt_ids(clip.shape[1], language) for clip, language in zip(features, languages, strict=True)]
        return Prompts(
            *padded_left(rows, int(self.tokenizer.pad_token_id)),
            self.pad_features(features),
            [len(row) for row in rows],
            [self.audio_token_count(clip.shape[1]) for clip in features],
        )
