"""An untrained Ark-ASR recogniser from a preset and a base vocabulary."""

import copy
from collections.abc import Mapping
from typing import Any

from transformers import WhisperFeatureExtractor

from arkasr.model.config import ArkAsrConfig
from arkasr.model.model import ArkAsrForConditionalGeneration
from arkasr.model.processor import AUDIO_TOKEN, STOP_TOKEN, ArkAsrProcessor
from arkasr.recognizers.ark_asr import ArkAsr
from arkasr.recognizers.tokenizer import PAD_TOKEN, BaseVocabulary, build_tokenizer


def build_ark_asr(sizes: Mapping[str, Any], vocabulary: BaseVocabulary) -> ArkAsr:
    """Build a model with random weights (torch's global generator) that writes `vocabulary`.

    Args:
        sizes: fields of `ArkAsrConfig`, such as a preset; `vocab_size` where the head is to be wider than the
            tokenizer, as in the published checkpoints.
        vocabulary: the base tokens; the family's own tokens are added behind them.
    """
    tokenizer = build_tokenizer(vocabulary)
    fields = copy.deepcopy(dict(sizes))
    rope_theta = fields.pop("rope_theta")
    vocab_size = fields.pop("vocab_size", len(tokenizer))
    config = ArkAsrConfig(
        **fields,
        vocab_size=vocab_size,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        audio_token_id=tokenizer.convert_tokens_to_ids(AUDIO_TOKEN),
        bos_token_id=tokenizer.convert_tokens_to_ids(PAD_TOKEN),
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD_TOKEN),
        eos_token_id=tokenizer.convert_tokens_to_ids(STOP_TOKEN),
        tie_word_embeddings=True,
    )
    processor = ArkAsrProcessor(
        WhisperFeatureExtractor(feature_size=config.whisper_config.num_mel_bins),
        tokenizer,
        merge_factor=config.merge_factor,
    )
    return ArkAsr(ArkAsrForConditionalGeneration(config), processor)
