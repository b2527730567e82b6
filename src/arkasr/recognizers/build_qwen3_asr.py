"""An untrained Qwen3-ASR recogniser from a preset and a base vocabulary."""

import copy
from collections.abc import Mapping
from typing import Any

from transformers import (
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRProcessor,
)

from arkasr.recognizers.qwen3_asr import (
    ADDED_TOKENS,
    CHAT_TEMPLATE,
    NAMED_TOKENS,
    SPECIAL_TOKENS,
    STOP_TOKEN,
    Qwen3Asr,
)
from arkasr.recognizers.tokenizer import PAD_TOKEN, BaseVocabulary, build_tokenizer


def build_qwen3_asr(sizes: Mapping[str, Any], vocabulary: BaseVocabulary) -> Qwen3Asr:
    """Build a model with random weights (torch's global generator) that writes `vocabulary`.

    Args:
        sizes: `text_config` and `audio_config` of `Qwen3ASRConfig`, such as a preset; the text's
            `vocab_size` where the head is to be wider than the tokenizer, as in the published checkpoints.
        vocabulary: the base tokens; the family's own tokens are added behind them.
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
