"""Qwen3-ASR as a recogniser: sizes, prompt, features, allowed tokens, and a model with random weights.

The model itself is part of Transformers (`Qwen3ASRForConditionalGeneration`). The prompt always forces a
language, so the transcript begins directly after it.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRProcessor,
)
from transformers.models.qwen3_asr.processing_qwen3_asr import LANGUAGE_CODE_TO_NAME

from arkasr.data.audio import SAMPLE_RATE
from arkasr.errors import InputError
from arkasr.model.allowed import allowed_tokens
from arkasr.model.frames import clip_of
from arkasr.model.placeholders import check_total
from arkasr.recognizers.decoder_only import DecoderOnlyRecognizer
from arkasr.recognizers.tokenizer import PAD_TOKEN, BaseVocabulary, build_tokenizer

PROMPT_WORDS = ("system", "user", "assistant", "language English", "language Chinese")
QWEN3_ASR_PRESETS: dict[str, dict[str, Any]] = {
    "qwen3-asr-tiny": {
        "text_config": {
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 32,
            "intermediate_size": 352,
            "initializer_range": 0.08,
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        "audio_config": {
            "num_mel_bins": 80,
            "d_model": 128,
            "encoder_layers": 3,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 512,
            "initializer_range": 0.08,
            "output_dim": 128,
            "downsample_hidden_size": 24,
        },
    },
    "qwen3-asr-1.7b": {
        "text_config": {
            "hidden_size": 2048,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 6144,
            "max_position_embeddings": 65_536,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        },
        "audio_config": {
            "num_mel_bins": 128,
            "d_model": 1024,
            "encoder_layers": 24,
            "encoder_attention_heads": 16,
            "encoder_ffn_dim": 4096,
            "output_dim": 2048,
        },
    },
}


STOP_TOKEN = "<|im_end|>"
# Tokens of the prompt, in the order of their published ids; they follow the base vocabulary.
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", STOP_TOKEN, "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>")
NAMED_TOKENS = {
    "audio_token": "<|audio_pad|>",
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
}
ADDED_TOKENS = ("<asr_text>", "<timestamp>")
CHAT_TEMPLATE = (
    "{% set context = messages[0]['content'][0]['text'] if messages[0]['role'] == 'system' else '' %}"
    "<|im_start|>system\n{{ context }}<|im_end|>\n"
    "{% for message in messages if message['role'] != 'system' %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_start|><|audio_pad|><|audio_end|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LANGUAGES = frozenset(LANGUAGE_CODE_TO_NAME.values())


class Qwen3Asr(DecoderOnlyRecognizer):
    """A Qwen3-ASR model, native in Transformers."""

    model_class = Qwen3ASRForConditionalGeneration
    parts: ClassVar[Mapping[str, Sequence[str]]] = {
        "encoder": ("model.audio_tower",),
        "adapter": ("model.multi_modal_projector",),
        "decoder": ("model.language_model.layers", "model.language_model.norm"),
        "embeddings": ("model.language_model.embed_tokens", "lm_head"),
    }

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.processor = processor
        self.stop_token_id = processor.tokenizer.convert_tokens_to_ids(STOP_TOKEN)
        self.allowed_tokens = allowed_tokens(processor.tokenizer, self.vocab_size, self.stop_token_id)
        model.generation_config.update(
            eos_token_id=self.stop_token_id,
            pad_token_id=processor.tokenizer.pad_token_id,
            do_sample=False,
            suppress_tokens=(~self.allowed_tokens).nonzero().squeeze(1).tolist(),
        )

    def features(self, waveform: np.ndarray) -> Tensor:
        features = self.processor.feature_extractor(
            clip_of(waveform), sampling_rate=SAMPLE_RATE, padding="longest", n_window=0, return_tensors="pt"
        )
        return features["input_features"][0]

    def pad_features(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Batch features; the frame axis is a multiple of the encoder's convolution chunk."""
        chunk = 2 * self.processor.feature_extractor.n_window
        lengths = torch.tensor([clip.shape[1] for clip in features])
        width = -(-int(lengths.max()) // chunk) * chunk
        padded = torch.stack([F.pad(clip, (0, width - clip.shape[1])) for clip in features])
        return {
            "input_features": padded,
            "input_features_mask": (torch.arange(width) < lengths[:, None]).long(),
        }

    def audio_token_count(self, frames: int) -> int:
        return int(self.processor._get_audio_token_length(torch.tensor(frames)))

    def prompt_text(self, language: str | None) -> str:
        """The transcription request with the language forced.

        Raises:
            InputError: Qwen3-ASR does not know the language, or none is given.
        """
        if language not in LANGUAGES:
            raise InputError(
                f"language {language!r} cannot be forced on Qwen3-ASR; give every utterance a `language` among "
                f"{', '.join(sorted(LANGUAGES))}"
            )
        # The processor's own transcription request has these messages. Before transformers 5.23
        # it returned only token ids.
        conversation = [
            {"role": "user", "content": [{"type": "audio", "audio": ""}]},
            {"role": "assistant", "content": [{"type": "text", "text": f"language {language}<asr_text>"}]},
        ]
        return str(self.processor.apply_chat_template(conversation, tokenize=False, continue_final_message=True))

    def audio_embeddings(self, audio: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        embeddings = self._valid_embeddings(audio)
        frames = audio["input_features_mask"].sum(1)
        counts = torch.as_tensor(self.processor._get_audio_token_length(frames), device=embeddings.device)
        return embeddings, counts

    def padded_audio_embeddings(self, audio: dict[str, Tensor], lengths: Sequence[int]) -> Tensor:
        """Computes the bounds of the encoder's windows, because the encoder would make the host wait for each."""
        flash = "flash" in self.model.config.audio_config._attn_implementation
        embeddings = self._valid_embeddings(audio, **({} if flash else {"cu_seqlens": self._window_bounds(lengths)}))
        check_total(sum(lengths), len(embeddings))
        return pad_sequence(list(embeddings.split(list(lengths))), batch_first=True)

    def _window_bounds(self, lengths: Sequence[int]) -> Tensor:
        """Bounds of the encoder's attention windows in the tokens of all clips, int32 `[windows + 1]`, on the host."""
        sizes = self.model.config.audio_config
        window = self.audio_token_count(2 * sizes.n_window) * (sizes.n_window_infer // (2 * sizes.n_window))
        bounds = [0]
        for length in lengths:
            first = bounds[-1]
            bounds += [*range(first + window, first + length, window), first + length]
        return torch.tensor(bounds, dtype=torch.int32)

    def _valid_embeddings(self, audio: dict[str, Tensor], **windows: Tensor) -> Tensor:
        # The encoder does not cast its input.
        features, mask = audio["input_features"].to(self.model.dtype), audio["input_features_mask"]
        embeddings: Tensor = self.model.get_audio_features(features, mask, return_dict=True, **windows).pooler_output
        return embeddings

    @property
    def decoder(self) -> nn.Module:
        decoder: nn.Module = self.model.model.language_model
        return decoder

    @property
    def audio_modules(self) -> list[nn.Module]:
        return [self.model.model.audio_tower, self.model.model.multi_modal_projector]


def build_qwen3_asr(sizes: Mapping[str, Any], vocabulary: BaseVocabulary) -> Qwen3Asr:
    """Build a model with random weights (torch's global generator) for a vocabulary.

    Args:
        sizes: `text_config` and `audio_config` of `Qwen3ASRConfig`, such as a preset. The text's `vocab_size` makes
            the head wider than the tokenizer, as in the published checkpoints.
        vocabulary: the base tokens; the family's own tokens follow them.
    """
    tokenizer = build_tokenizer(vocabulary, SPECIAL_TOKENS, named_tokens=NAMED_TOKENS, added_tokens=ADDED_TOKENS)
    fields = copy.deepcopy(dict(sizes))
    fields["text_config"].setdefault("vocab_size", len(tokenizer))
    special = {
        "pad_token_id": tokenizer.convert_tokens_to_ids(PAD_TOKEN),
        "eos_token_id": tokenizer.convert_tokens_to_ids(STOP_TOKEN),
    }
    config = Qwen3ASRConfig(
        text_config=fields["text_config"] | {"model_type": "qwen3", "tie_word_embeddings": True, **special},
        audio_config=fields["audio_config"] | {"model_type": "qwen3_asr_encoder"},
        audio_token_id=tokenizer.convert_tokens_to_ids(NAMED_TOKENS["audio_token"]),
        timestamp_token_id=tokenizer.convert_tokens_to_ids("<timestamp>"),
        tie_word_embeddings=True,
        **special,
    )
    processor = Qwen3ASRProcessor(
        Qwen3ASRFeatureExtractor(feature_size=config.audio_config.num_mel_bins),
        tokenizer,
        chat_template=CHAT_TEMPLATE,
    )
    return Qwen3Asr(Qwen3ASRForConditionalGeneration(config), processor)
