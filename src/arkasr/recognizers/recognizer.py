"""The interface of a recogniser: a model, its features and its prompts.

Everything that trains, scores, decodes or evaluates uses this interface. Each family implements it in its own file.
Forced scoring (`scoring.py`) and decoding (`decoding.py`) are the same for all families.
"""

import hashlib
import inspect
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
from torch.nn import functional as F

from arkasr.data.audio import LONGEST_CLIP_SECONDS
from arkasr.errors import InputError
from arkasr.recognizers.device import to_device
from arkasr.recognizers.plain_text import plain_ids, plain_lengths
from arkasr.recognizers.text import Prefix, no_prefix

# Fields of a feature extractor's file that do not change the features.
SETTINGS_WITHOUT_EFFECT = ("processor_class", "feature_extractor_type", "auto_map")


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts: audio and the tokens around it, padded on the left.

    Attributes:
        input_ids: int64 `[B, P]`.
        attention_mask: int64 `[B, P]`, zero at padding.
        audio: the audio part of the model's keyword arguments, batch first. After `Recognizer.embed_audio` it has
            `embeddings` `[B, N, H]`, padded on the right.
        lengths: tokens of each prompt. On the host, like `audio_lengths`, so that nothing waits for the device.
        audio_lengths: audio embeddings of each prompt.
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

    A family's class takes a model and its processor.

    Attributes:
        model_class: the Transformers class of the family's models.
        fixed_settings: config fields and their values; they replace those of every checkpoint when it is loaded.
        parts: names that a recipe uses in `freeze` and `learning_rates`, with the paths of the part's modules in
            `model`. Every parameter belongs to exactly one part.
        model: the Transformers model.
        processor: the Transformers processor, with `tokenizer` and `feature_extractor`.
        stop_token_id: ends a transcript.
        allowed_tokens: bool `[V]`, the tokens that a transcript may hold, the stop token included.
    """

    model_class: ClassVar[Any]
    fixed_settings: ClassVar[Mapping[str, Any]] = {}
    parts: ClassVar[Mapping[str, Sequence[str]]]
    model: Any
    processor: Any
    stop_token_id: int
    allowed_tokens: Tensor

    @abstractmethod
    def __init__(self, model: Any, processor: Any) -> None: ...

    @abstractmethod
    def features(self, waveform: np.ndarray) -> Tensor:
        """Log-mel features float32 `[mels, T]` of one 16 kHz mono float32 clip `[samples]`.

        Raises:
            InputError: the clip is longer than `longest_clip_seconds`.
        """

    @abstractmethod
    def pad_features(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Batch features `[mels, T]` into the audio part of the model's keyword arguments."""

    @abstractmethod
    def prompt_text(self, language: str | None) -> str:
        """The text before the transcript.

        Raises:
            InputError: the family cannot write a prompt for this language.
        """

    @abstractmethod
    def prompts(self, features: list[Tensor], languages: Sequence[str | None]) -> Prompts:
        """Batch clips of log-mel features `[mels, T]` into prompts padded on the left."""

    @abstractmethod
    def embed_audio(self, prompts: Prompts) -> Prompts:
        """The same prompts with their audio embedded, so that several decoder passes share one encoder pass.

        Raises:
            ValueError: the audio does not fit the prompts.
        """

    @abstractmethod
    def decoder_inputs(self, input_ids: Tensor, audio: dict[str, Tensor]) -> dict[str, Tensor]:
        """The decoder's keyword arguments. `input_ids` and `audio` are as in `decoder_states`."""

    @abstractmethod
    def new_cache(self) -> Any:
        """An empty cache of the decoder."""

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

    @property
    def allowed_first_tokens(self) -> Tensor:
        """The tokens that may begin a transcript when the model writes, bool `[V]`."""
        return self.allowed_tokens

    @property
    def longest_transcript(self) -> int | None:
        """The most tokens of a transcript, the stop token included; None = no fixed limit."""
        return None

    @property
    def longest_clip_seconds(self) -> float:
        """The longest clip that `features` takes, in seconds.

        An excess of less than a mel frame is cut off; a larger one is an error.
        """
        return LONGEST_CLIP_SECONDS

    @property
    def window_seconds(self) -> float:
        """Every clip is padded to at least this many seconds; 0 = to the longest of its batch."""
        return 0.0

    @property
    def padding_frames(self) -> int:
        """Number of last frames of `features`, which fill the window in `pad_features` and are not augmented.

        They are silent, unless the clip fills the window.
        """
        return 0

    @property
    def detects_language(self) -> bool:
        """Whether the model detects the language of the audio if a prompt names none; this is one more decoder pass."""
        return False

    def language_of(self, prompt_ids: Tensor) -> str | None:
        """The language, by name, in a prompt `[P]` of `embed_audio`; None if prompts of the family name none."""
        return None

    def context_ids(self, context: str, max_new_tokens: int) -> list[int]:
        """Token ids of a text that came before the audio, for `with_contexts`.

        Args:
            context: the text.
            max_new_tokens: that the transcript may have beside it.

        Raises:
            InputError: the family takes no such text, or it is too long.
        """
        raise InputError("this model takes no prompt; leave it out")

    def with_contexts(self, prompts: Prompts, contexts: Sequence[Sequence[int]]) -> Prompts:
        """The prompts after contexts of `context_ids`; an empty one changes nothing."""
        raise NotImplementedError

    def can_write(self, tokens: int) -> bool:
        """Whether a transcript may have so many tokens, the stop token included."""
        return self.longest_transcript is None or tokens <= self.longest_transcript

    @property
    def transcript_prefix(self) -> Prefix:
        """What the family writes before the first word of a text, such as a blank."""
        return no_prefix

    def select_cached(self, cache: Any, rows: Tensor, columns: Tensor) -> None:
        """Keep some rows of a cache of `decoder_states`, and some columns of each.

        Args:
            cache: changed in place.
            rows: int64 `[R]`.
            columns: int64 `[R, L]`, of each kept row.
        """
        for layer in cache.layers:
            layer.keys = layer.keys[rows[:, None], :, columns].transpose(1, 2)
            layer.values = layer.values[rows[:, None], :, columns].transpose(1, 2)

    def join_cached(self, cache: Any, other: Any) -> None:
        """Append the rows of another cache. Columns of zeros before its first one make the shorter one longer.

        Args:
            cache: of `decoder_states`, changed in place.
            other: of `decoder_states`.
        """
        for layer, joining in zip(cache.layers, other.layers, strict=True):
            width = max(layer.keys.shape[2], joining.keys.shape[2])
            layer.keys = torch.cat((_widened(layer.keys, width), _widened(joining.keys, width)))
            layer.values = torch.cat((_widened(layer.values, width), _widened(joining.values, width)))

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
        if use_cache and cache is None:
            cache = self.new_cache()
        outputs = self.decoder(
            **self.decoder_inputs(input_ids, audio),
            attention_mask=self._device_mask(attention_mask, input_ids.shape[1]),
            position_ids=position_ids,
            use_cache=use_cache,
            **{self._cache_argument: cache},
        )
        return outputs.last_hidden_state, cache

    @cached_property
    def _cache_argument(self) -> str:
        """The name of the decoder's argument for its cache; Transformers renamed it from `past_key_values`."""
        renamed = "cache" in inspect.signature(type(self.decoder).forward).parameters
        return "cache" if renamed else "past_key_values"

    def _device_mask(self, attention_mask: Tensor, queries: int) -> Tensor:
        """The mask, where possible in a form that Transformers uses without copying it from an accelerator to the host.

        The arguments are as in `causal_mask`.
        """
        config = cast(Any, self.decoder).config
        sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ())
        if attention_mask.device.type == "cpu" or config._attn_implementation != "sdpa" or sliding:
            return attention_mask
        return causal_mask(attention_mask, queries)

    def transcript_ids(self, text: str) -> Tensor:
        """Token ids of a transcript with the stop token at its end, int64 `[n]`."""
        return torch.tensor([*plain_ids(self.tokenizer, self.transcript_prefix(text) + text), self.stop_token_id])

    def transcript_lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each transcript, the stop token included; one call is much faster than many."""
        written = [self.transcript_prefix(text) + text for text in texts]
        return [length + 1 for length in plain_lengths(self.tokenizer, written)]

    def transcript_text(self, ids: Tensor) -> str:
        """The raw text of generated ids `[n]`, without the stop token."""
        kept = [token for token in ids.tolist() if token != self.stop_token_id]
        return str(self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def save(self, folder: Path, weights: Mapping[str, Tensor] | None = None, **options: Any) -> None:
        """Write a plain `from_pretrained` folder: model, processor, tokenizer, generation config.

        Args:
            folder: to write.
            weights: the state dict; None = the model's own.
            options: further arguments of the model's `save_pretrained`, such as `max_shard_size`.
        """
        self.model.save_pretrained(folder, state_dict=weights, **options)
        self.processor.save_pretrained(folder)


def _widened(cached: Tensor, width: int) -> Tensor:
    """Keys or values `[B, heads, L, D]` with zeros before the first column, up to a width."""
    return F.pad(cached, (0, 0, width - cached.shape[2], 0))


def causal_mask(attention_mask: Tensor, queries: int) -> Tensor:
    """The keys that each query (the last L tokens) may attend to: bool `[B, 1, L, L']`, True where it may.

    Args:
        attention_mask: int64 `[B, L']`, zero where hidden.
        queries: L, the number of last tokens.
    """
    keys = attention_mask.shape[1]
    indices = torch.arange(keys, device=attention_mask.device)
    return (indices <= indices[keys - queries :, None]) & attention_mask[:, None, None].bool()


def padded_left(rows: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """Token ids of prompts padded on the left, int64 `[B, P]`, and their attention mask, int64 `[B, P]`."""
    width = max(map(len, rows))
    input_ids = torch.full((len(rows), width), padding)
    attention_mask = torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        input_ids[index, width - len(row) :] = torch.tensor(row)
        attention_mask[index, width - len(row) :] = 1
    return input_ids, attention_mask
