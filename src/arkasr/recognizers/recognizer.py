"""The interface of a recogniser: a model, its features and its prompts.

Everything that trains, scores, decodes or evaluates uses this interface. Each family implements it in its own file.
Forced scoring (`scoring.py`) and decoding (`decoding.py`) are the same for all families.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from arkasr.model.placeholders import fill_padded
from arkasr.recognizers.device import to_device

# Fields of a feature extractor's file that do not change the features.
SETTINGS_WITHOUT_EFFECT = ("processor_class", "feature_extractor_type", "auto_map")


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts: audio and the tokens around it, padded on the left.

    Attributes:
        input_ids: int64 `[B, P]`.
        attention_mask: int64 `[B, P]`, zero at padding.
        audio: the audio part of the model's keyword arguments, batch first. After `Recognizer.embed_audio` also
            `embeddings` `[B, N, H]`, padded on the right.
        lengths: tokens of each prompt. On the host, like `audio_lengths`, so that nothing waits for the device.
        audio_lengths: audio tokens of each prompt.
    """

    input_ids: Tensor
    attention_mask: Tensor
    audio: dict[str, Tensor]
    lengths: list[int]
    audio_lengths: list[int]

    def select(self, clips: Sequence[int]) -> "Prompts":
        """The prompts of some clips, in the order given."""
        if list(clips) == list(range(len(self.lengths))):
            return self
        rows = to_device(torch.tensor(clips, dtype=torch.long), self.input_ids.device)
        return Prompts(
            self.input_ids.index_select(0, rows),
            self.attention_mask.index_select(0, rows),
            {name: tensor.index_select(0, rows) for name, tensor in self.audio.items()},
            [self.lengths[clip] for clip in clips],
            [self.audio_lengths[clip] for clip in clips],
        )

    def detach(self) -> "Prompts":
        """The same prompts without gradients."""
        return replace(self, audio={name: tensor.detach() for name, tensor in self.audio.items()})

    def to(self, device: torch.device) -> "Prompts":
        """The same prompts on another device."""
        return replace(
            self,
            input_ids=to_device(self.input_ids, device),
            attention_mask=to_device(self.attention_mask, device),
            audio={name: to_device(tensor, device) for name, tensor in self.audio.items()},
        )


class Recognizer(ABC):
    """A model, its processor, and the conventions of its family.

    Attributes:
        parts: the parts of the model that a recipe can freeze or give a learning rate: the paths of their modules in
            `model`, by name. Every parameter belongs to exactly one part.
        model: the Transformers model.
        processor: the Transformers processor, with `tokenizer` and `feature_extractor`.
        stop_token_id: ends a transcript.
        allowed_tokens: bool `[V]`, the tokens that a transcript may hold, the stop token included.
    """

    parts: ClassVar[Mapping[str, Sequence[str]]]
    model: Any
    processor: Any
    stop_token_id: int
    allowed_tokens: Tensor

    @abstractmethod
    def features(self, waveform: np.ndarray) -> Tensor:
        """Log-mel features float32 `[mels, T]` of one 16 kHz mono float32 clip `[samples]`."""

    @abstractmethod
    def pad_features(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Batch features `[mels, T]` into the audio part of the model's keyword arguments."""

    @abstractmethod
    def audio_token_count(self, frames: int) -> int:
        """Audio tokens in the prompt of a clip of `frames` mel frames."""

    @abstractmethod
    def prompt_text(self, language: str | None) -> str:
        """The text before the transcript, with one audio placeholder.

        Raises:
            InputError: the family cannot write a prompt for this language.
        """

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

    @property
    @abstractmethod
    def decoder(self) -> nn.Module:
        """The language model without its output head, a Transformers model that takes `inputs_embeds`."""

    @property
    @abstractmethod
    def audio_modules(self) -> list[nn.Module]:
        """Encoder and projector, which a CTC warm start trains."""

    def parameters_of(self, part: str) -> list[nn.Parameter]:
        """The parameters of one of `parts`; tied ones once."""
        return list(nn.ModuleList(self.model.get_submodule(path) for path in self.parts[part]).parameters())

    @cached_property
    def frontend(self) -> str:
        """An identifier of the log-mel front end, equal only for the same family and the same extractor settings."""
        extractor = self.processor.feature_extractor
        settings = {key: value for key, value in extractor.to_dict().items() if key not in SETTINGS_WITHOUT_EFFECT}
        filters = np.ascontiguousarray(extractor.mel_filters)
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode() + filters.tobytes())
        return f"{self.model.config.model_type}-{type(extractor).__name__}-{digest.hexdigest()[:16]}"

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def vocab_size(self) -> int:
        """Width of the model's logits, which may exceed the tokenizer's length."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def embedding_size(self) -> int:
        """Width of the decoder."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def head(self) -> Tensor:
        """Weight of the output head, `[V, H]`: logits are states · headᵀ."""
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return next(iter(self.model.parameters())).device

    def embed_audio(self, prompts: Prompts) -> Prompts:
        """The same prompts with their audio embedded, so that several decoder passes share one encoder pass.

        Raises:
            ValueError: as `padded_audio_embeddings`.
        """
        if "embeddings" in prompts.audio:
            return prompts
        embeddings = self.padded_audio_embeddings(prompts.audio, prompts.audio_lengths)
        return replace(prompts, audio=prompts.audio | {"embeddings": embeddings})

    def decoder_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        audio: dict[str, Tensor],
        *,
        cache: Any = None,
        use_cache: bool = False,
    ) -> tuple[Tensor, Any]:
        """The last hidden states of the decoder, one for every input token.

        Args:
            input_ids: int64 `[B, L]`.
            attention_mask: int64 `[B, L']`, zero where hidden; L' is L plus the length of the cache.
            position_ids: int64 `[B, L]`.
            audio: `Prompts.audio` with embeddings; empty once the prompts are in the cache.
            cache: keys and values of earlier tokens.
            use_cache: return the cache.

        Returns:
            States `[B, L, H]`, and the cache or None.
        """
        embedded = self.model.get_input_embeddings()(input_ids)
        if audio:
            placeholders = input_ids == self.processor.audio_token_id
            embedded = fill_padded(embedded, placeholders, audio["embeddings"])
        config = cast(Any, self.decoder).config
        sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ())
        if input_ids.device.type != "cpu" and config._attn_implementation == "sdpa" and not sliding:
            # For a mask of two dimensions Transformers reads values from the device, which makes the host wait.
            attention_mask = causal_mask(attention_mask, input_ids.shape[1])
        outputs = self.decoder(
            inputs_embeds=embedded,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=use_cache,
        )
        return outputs.last_hidden_state, outputs.past_key_values

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
        """Batch clips of log-mel features `[mels, T]` into prompts padded on the left."""
        rows = [self.prompt_ids(clip.shape[1], language) for clip, language in zip(features, languages, strict=True)]
        width = max(map(len, rows))
        input_ids = torch.full((len(rows), width), int(self.tokenizer.pad_token_id))
        attention_mask = torch.zeros(len(rows), width, dtype=torch.long)
        for index, row in enumerate(rows):
            input_ids[index, width - len(row) :] = torch.tensor(row)
            attention_mask[index, width - len(row) :] = 1
        return Prompts(
            input_ids,
            attention_mask,
            self.pad_features(features),
            [len(row) for row in rows],
            [self.audio_token_count(clip.shape[1]) for clip in features],
        )

    def transcript_ids(self, text: str) -> Tensor:
        """Token ids of a transcript with the stop token at its end, int64 `[n]`."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor([*ids, self.stop_token_id])

    def transcript_lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each transcript, the stop token included; one call is much faster than many."""
        return [len(ids) + 1 for ids in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    def transcript_text(self, ids: Tensor) -> str:
        """The raw text of generated ids `[n]`, without the stop token."""
        kept = [token for token in ids.tolist() if token != self.stop_token_id]
        return str(self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def save(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write a plain `from_pretrained` folder: model, processor, tokenizer, generation config.

        Args:
            folder: to write.
            weights: the state dict; None = the model's own.
        """
        self.model.save_pretrained(folder, state_dict=weights)
        self.processor.save_pretrained(folder)


def causal_mask(attention_mask: Tensor, queries: int) -> Tensor:
    """The keys that each query (the last L tokens) may attend to: bool `[B, 1, L, L']`, True where it may.

    Args:
        attention_mask: int64 `[B, L']`, zero where hidden.
        queries: L, the number of last tokens.
    """
    keys = attention_mask.shape[1]
    indices = torch.arange(keys, device=attention_mask.device)
    return (indices <= indices[keys - queries :, None]) & attention_mask[:, None, None].bool()
