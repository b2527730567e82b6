"""Whisper as a recogniser: prompt, window, suppressed tokens, leading blank.

The model itself is part of Transformers (`WhisperForConditionalGeneration`). Its decoder reads the audio by
cross-attention, so prompts hold no audio tokens. Sources: arXiv 2212.04356, and the generation config of each
checkpoint.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from arkasr.data.audio import LONGEST_CLIP_SECONDS, SAMPLE_RATE
from arkasr.data.languages import LANGUAGE_CODES
from arkasr.errors import InputError
from arkasr.model.allowed import allowed_tokens
from arkasr.model.frames import ENCODER_FRAME_SAMPLES, HOP_LENGTH, WINDOW_LENGTH, clip_of
from arkasr.recognizers.plain_text import plain_ids
from arkasr.recognizers.recognizer import Prompts, Recognizer, padded_left
from arkasr.recognizers.text import Prefix, blank_before
from arkasr.recognizers.tokenizer import BaseVocabulary, follows_rules

WHISPER_PRESETS: dict[str, dict[str, Any]] = {
    name: {
        "d_model": width,
        "encoder_layers": encoder_layers,
        "decoder_layers": decoder_layers,
        "encoder_attention_heads": width // 64,
        "decoder_attention_heads": width // 64,
        "encoder_ffn_dim": 4 * width,
        "decoder_ffn_dim": 4 * width,
        "num_mel_bins": mel_bins,
    }
    for name, width, encoder_layers, decoder_layers, mel_bins in (
        ("whisper-tiny", 384, 4, 4, 80),
        ("whisper-base", 512, 6, 6, 80),
        ("whisper-small", 768, 12, 12, 80),
        ("whisper-medium", 1024, 24, 24, 80),
        ("whisper-large-v2", 1280, 32, 32, 80),
        ("whisper-large-v3", 1280, 32, 32, 128),
        ("whisper-large-v3-turbo", 1280, 32, 4, 128),
    )
}
STOP_TOKEN = "<|endoftext|>"
START_TOKEN = "<|startoftranscript|>"
NO_TIMESTAMPS_TOKEN = "<|notimestamps|>"
TASK_TOKENS = ("<|transcribe|>", NO_TIMESTAMPS_TOKEN)
LANGUAGE_PLACE = -1 - len(TASK_TOKENS)  # in a prompt
CONTEXT_TOKEN = "<|startofprev|>"
# The tokens whose ids follow those of the languages, in this order.
LAST_SPECIAL_TOKENS = (
    *("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>"),
    NO_TIMESTAMPS_TOKEN,
)
TIMESTAMPS = 1501  # every 20 ms from 0 to 30 s
# Without a generation config, the vocabulary's size tells whether a checkpoint knows languages (openai/whisper).
SMALLEST_MULTILINGUAL_VOCABULARY = 51_865
# Codes of Whisper that differ from those of manifests.
WHISPER_CODES = LANGUAGE_CODES | {"Filipino": "tl", "Javanese": "jw"}
OLD_CODES = {"Hebrew": "iw"}  # in tokenizers of 2022


class Whisper(Recognizer):
    """A Whisper model of any size, multilingual or English only, native in Transformers.

    A prompt without a language gets the language that the model detects.

    Raises:
        InputError: the tokenizer lacks a token of the prompt, or feature extractor and encoder have different windows.
    """

    model_class = WhisperForConditionalGeneration
    # OPD compares distributions, so noise from dropout would be an error. Layers that are left out break DDP.
    fixed_settings: ClassVar[Mapping[str, Any]] = dict.fromkeys(
        ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop"), 0.0
    )
    parts: ClassVar[Mapping[str, Sequence[str]]] = {
        "encoder": ("model.encoder",),
        "decoder": ("model.decoder.layers", "model.decoder.layer_norm", "model.decoder.embed_positions"),
        "embeddings": ("model.decoder.embed_tokens", "proj_out"),
    }

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.processor = processor
        # Sinusoids are not trained. Loading a checkpoint makes every parameter trainable.
        model.model.encoder.embed_positions.requires_grad_(False)
        self._check_window()
        self.stop_token_id = self._token_id(STOP_TOKEN)
        self.prompt_ids(None)  # fails if the tokenizer lacks a token of the prompt
        if model.generation_config._from_model_config:
            # The checkpoint has no generation config. The one that Transformers makes has ids of English models.
            blank = self.tokenizer(" ", add_special_tokens=False)["input_ids"]
            model.generation_config.begin_suppress_tokens = [*blank, self.stop_token_id]
        self.allowed_tokens = allowed_tokens(processor.tokenizer, self.vocab_size, self.stop_token_id)
        self.allowed_tokens[_token_list(model.generation_config.suppress_tokens, self.vocab_size)] = False

    @cached_property
    def allowed_first_tokens(self) -> Tensor:
        allowed = self.allowed_tokens.clone()
        allowed[_token_list(self.model.generation_config.begin_suppress_tokens, self.vocab_size)] = False
        return allowed

    @property
    def longest_transcript(self) -> int:
        # The last token is written, but never read.
        return int(self.model.config.max_target_positions) - len(self.prompt_ids(None)) + 1

    @property
    def is_multilingual(self) -> bool:
        """Whether the prompt names a language."""
        known = getattr(self.model.generation_config, "is_multilingual", None)
        return self.vocab_size >= SMALLEST_MULTILINGUAL_VOCABULARY if known is None else bool(known)

    @property
    def longest_clip_seconds(self) -> float:
        return min(self.window_seconds, LONGEST_CLIP_SECONDS)

    @property
    def window_seconds(self) -> float:
        return float(self.processor.feature_extractor.nb_max_frames * HOP_LENGTH / SAMPLE_RATE)

    @property
    def padding_frames(self) -> int:
        return 1

    @property
    def detects_language(self) -> bool:
        return self.is_multilingual

    @cached_property
    def language_tokens(self) -> dict[str, int]:
        """The ids of the languages that the model knows, by name; empty for a model that knows only English."""
        if not self.is_multilingual:
            return {}
        vocabulary = self.tokenizer.get_vocab()
        codes = WHISPER_CODES if "<|he|>" in vocabulary else WHISPER_CODES | OLD_CODES
        tokens = {name: vocabulary.get(f"<|{code}|>") for name, code in codes.items()}
        return {name: token for name, token in tokens.items() if token is not None and token < self.vocab_size}

    def features(self, waveform: np.ndarray) -> Tensor:
        """The frames that hold sound, and one of silence, which `pad_features` repeats up to the window.

        A clip that fills the window has no frame of silence.
        """
        clip = clip_of(waveform, self.longest_clip_seconds)
        extractor = self.processor.feature_extractor
        frames = min(-(-(len(clip) + WINDOW_LENGTH // 2) // HOP_LENGTH) + 1, extractor.nb_max_frames)
        clip = np.pad(clip, (0, frames * HOP_LENGTH - len(clip)))
        features = extractor(clip, sampling_rate=SAMPLE_RATE, padding="do_not_pad", return_tensors="pt")
        return features["input_features"][0]

    def pad_features(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Batch features; the last frame of each clip fills the window."""
        window = self.processor.feature_extractor.nb_max_frames
        rows = [clip[:, torch.arange(window).clamp(max=clip.shape[1] - 1)] for clip in features]
        return {"input_features": torch.stack(rows)}

    def prompt_text(self, language: str | None) -> str:
        """The tokens that begin a transcript without timestamps. The start token stands for an unknown language.

        Raises:
            InputError: the model does not know the language.
        """
        return "".join(self.tokenizer.convert_ids_to_tokens(self.prompt_ids(language)))

    def prompt_ids(self, language: str | None) -> list[int]:
        """Token ids of the prompt; the start token stands for a language that is not known yet.

        Raises:
            InputError: the model does not know the language.
        """
        start = self._token_id(START_TOKEN)
        if not self.is_multilingual:
            if language not in (None, "English"):
                raise InputError(f"language {language!r}: this Whisper model writes English; use a multilingual one")
            return [start, self._token_id(NO_TIMESTAMPS_TOKEN)]
        if language is not None and language not in self.language_tokens:
            raise InputError(
                f"language {language!r} is not one of this Whisper model; it knows {', '.join(self.language_tokens)}"
            )
        language_id = start if language is None else self.language_tokens[language]
        return [start, language_id, *map(self._token_id, TASK_TOKENS)]

    def language_of(self, prompt_ids: Tensor) -> str | None:
        if not self.is_multilingual:
            return "English"
        names = {token: name for name, token in self.language_tokens.items()}
        return next((names[token] for token in prompt_ids.tolist() if token in names), None)

    def prompts(self, features: list[Tensor], languages: Sequence[str | None]) -> Prompts:
        rows = [self.prompt_ids(language) for language in languages]
        audio = self.pad_features(features)
        if self.is_multilingual and None in languages:
            audio["language_unknown"] = torch.tensor([language is None for language in languages])
        input_ids, attention_mask = padded_left(rows, int(self.tokenizer.pad_token_id))
        positions = [self.model.config.max_source_positions] * len(rows)
        return Prompts(input_ids, attention_mask, audio, [len(row) for row in rows], positions)

    def context_ids(self, context: str, max_new_tokens: int) -> list[int]:
        """The tokens of a text after those that mark it as earlier."""
        ids = plain_ids(self.tokenizer, f" {context.strip()}")
        # The marker takes a position, too.
        longest = self.longest_transcript - max_new_tokens - 1
        if len(ids) > longest:
            room = f"beside {max_new_tokens} new ones, this model reads at most {max(longest, 0)}"
            raise InputError(f"the prompt has {len(ids)} tokens; {room}; shorten it")
        return [self._token_id(CONTEXT_TOKEN), *ids]

    def with_contexts(self, prompts: Prompts, contexts: Sequence[Sequence[int]]) -> Prompts:
        rows = [
            [*context, *ids[ids.shape[0] - length :].tolist()]
            for context, ids, length in zip(contexts, prompts.input_ids, prompts.lengths, strict=True)
        ]
        input_ids, attention_mask = padded_left(rows, int(self.tokenizer.pad_token_id))
        return replace(prompts, input_ids=input_ids, attention_mask=attention_mask, lengths=[len(row) for row in rows])

    def embed_audio(self, prompts: Prompts) -> Prompts:
        """The encoder's states `[B, N, H]` replace the features, and unknown languages are detected.

        N counts the positions of the window, 20 ms each.
        """
        embeddings, input_ids = prompts.audio.get("embeddings"), prompts.input_ids
        if embeddings is None:
            # The encoder does not cast its input.
            features = prompts.audio["input_features"].to(self.model.dtype)
            embeddings = self.model.model.encoder(features).last_hidden_state
        if "language_unknown" in prompts.audio:
            detected = self._detected_language_ids(embeddings.detach())
            languages = torch.where(prompts.audio["language_unknown"], detected, input_ids[:, LANGUAGE_PLACE])
            input_ids = input_ids.clone()
            input_ids[:, LANGUAGE_PLACE] = languages
        return replace(prompts, input_ids=input_ids, audio={"embeddings": embeddings})

    def decoder_inputs(self, input_ids: Tensor, audio: dict[str, Tensor]) -> dict[str, Tensor]:
        embedded = self.model.get_input_embeddings()(input_ids)
        # Once the cache holds the keys of the audio, Transformers only checks that some states are given.
        return {"inputs_embeds": embedded, "encoder_hidden_states": audio.get("embeddings", embedded)}

    def new_cache(self) -> EncoderDecoderCache:
        return EncoderDecoderCache(DynamicCache(), DynamicCache())

    def select_cached(self, cache: Any, rows: Tensor, columns: Tensor) -> None:
        super().select_cached(cache.self_attention_cache, rows, columns)
        for layer in cache.cross_attention_cache.layers:
            layer.keys, layer.values = layer.keys.index_select(0, rows), layer.values.index_select(0, rows)

    def join_cached(self, cache: Any, other: Any) -> None:
        super().join_cached(cache.self_attention_cache, other.self_attention_cache)
        super().join_cached(cache.cross_attention_cache, other.cross_attention_cache)

    @property
    def decoder(self) -> nn.Module:
        decoder: nn.Module = self.model.model.decoder
        return decoder

    @property
    def audio_modules(self) -> list[nn.Module]:
        return [self.model.model.encoder]

    @property
    def transcript_prefix(self) -> Prefix:
        return blank_before

    def save(self, folder: Path, weights: Mapping[str, Tensor] | None = None, **options: Any) -> None:
        """As in the base class, with the files that only converters of other programs read."""
        super().save(folder, weights, **options)
        self.processor.feature_extractor.save_pretrained(folder)
        # whisper.cpp reads vocab.json and added_tokens.json instead of tokenizer.json.
        self.tokenizer.backend_tokenizer.model.save(str(folder))
        added = json.dumps(self.tokenizer.get_added_vocab(), ensure_ascii=False)
        (folder / "added_tokens.json").write_text(added, encoding="utf-8")

    @torch.no_grad()
    def _detected_language_ids(self, embeddings: Tensor) -> Tensor:
        """The most likely language token after the start token, int64 `[B]`."""
        start = torch.full((len(embeddings), 1), self._token_id(START_TOKEN), device=embeddings.device)
        audio = {"embeddings": embeddings}
        states, _ = self.decoder_states(start, torch.ones_like(start), torch.zeros_like(start), audio)
        candidates = torch.tensor(sorted(self.language_tokens.values()), device=embeddings.device)
        return candidates[(states[:, 0] @ self.head[candidates].T).argmax(dim=1)]

    def _token_id(self, token: str) -> int:
        token_id = self.tokenizer.convert_tokens_to_ids(token)
        if token_id is None or self.tokenizer.convert_ids_to_tokens(token_id) != token:
            raise InputError(f"the tokenizer of this Whisper model has no {token}; take the original tokenizer files")
        return int(token_id)

    def _check_window(self) -> None:
        encoder_seconds = self.model.config.max_source_positions * ENCODER_FRAME_SAMPLES / SAMPLE_RATE
        if self.window_seconds != encoder_seconds:
            raise InputError(
                f"the feature extractor of this Whisper model has a window of {self.window_seconds:g} s, its encoder "
                f"reads {encoder_seconds:g} s; take the original preprocessor_config.json"
            )


def build_whisper(sizes: Mapping[str, Any], vocabulary: BaseVocabulary) -> Whisper:
    """Build a multilingual model with random weights (torch's global generator) for a vocabulary.

    Args:
        sizes: fields of `WhisperConfig`, such as a preset. A `vocab_size` among them can make the head wider than
            tokenizer and timestamps need.
        vocabulary: the base tokens; the family's own tokens follow them.

    Raises:
        InputError: the vocabulary has rules that Whisper's tokenizer does not follow.
    """
    languages = [f"<|{code}|>" for code in WHISPER_CODES.values()]
    tokenizer = WhisperTokenizer(
        vocab=dict(vocabulary.token_to_id), merges=list(vocabulary.merges), pad_token=STOP_TOKEN
    )
    if vocabulary.rules is not None and not follows_rules(tokenizer, vocabulary):
        raise InputError(
            "tokenizer.pruned_from: a Whisper model splits texts into words by rules of its own; "
            "prune the vocabulary of a Whisper model"
        )
    special = (STOP_TOKEN, START_TOKEN, *dict.fromkeys(languages), *LAST_SPECIAL_TOKENS)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    stop, start = tokenizer.convert_tokens_to_ids([STOP_TOKEN, START_TOKEN])
    ids = {"decoder_start_token_id": start, "eos_token_id": stop, "pad_token_id": stop, "bos_token_id": stop}
    config = WhisperConfig(
        **({"vocab_size": len(tokenizer) + TIMESTAMPS} | dict(sizes)), tie_word_embeddings=True, **ids
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        **ids,
        max_length=config.max_target_positions,
        is_multilingual=True,
        lang_to_id={token: tokenizer.convert_tokens_to_ids(token) for token in languages},
        task_to_id={task: tokenizer.convert_tokens_to_ids(f"<|{task}|>") for task in ("transcribe", "translate")},
        no_timestamps_token_id=tokenizer.convert_tokens_to_ids(NO_TIMESTAMPS_TOKEN),
        # Random weights know nothing of timestamps.
        suppress_tokens=list(range(start, config.vocab_size)),
        begin_suppress_tokens=[*tokenizer(" ", add_special_tokens=False)["input_ids"], stop],
    )
    extractor = WhisperFeatureExtractor(feature_size=config.num_mel_bins)
    return Whisper(model, WhisperProcessor(extractor, tokenizer))


def _token_list(tokens: Any, vocab_size: int) -> list[int]:
    """Ids of a generation config that have a logit."""
    return [token for token in tokens or () if 0 <= token < vocab_size]
