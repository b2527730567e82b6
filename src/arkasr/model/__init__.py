"""Ark-ASR as native Transformers classes."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    AutoTokenizer,
    Qwen2Tokenizer,
    WhisperFeatureExtractor,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES

import arkasr.model.published_names  # noqa: F401  (registers the published class names)
from arkasr.model.config import ArkAsrConfig
from arkasr.model.model import ArkAsrForConditionalGeneration
from arkasr.model.processor import ArkAsrProcessor

AutoConfig.register(ArkAsrConfig.model_type, ArkAsrConfig)
AutoModel.register(ArkAsrConfig, ArkAsrForConditionalGeneration)
AutoModelForCausalLM.register(ArkAsrConfig, ArkAsrForConditionalGeneration)
AutoModelForMultimodalLM.register(ArkAsrConfig, ArkAsrForConditionalGeneration)
AutoModelForSpeechSeq2Seq.register(ArkAsrConfig, ArkAsrForConditionalGeneration)
# The speech recognition pipeline finds the classes that generate in this table only.
MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES[ArkAsrConfig.model_type] = ArkAsrForConditionalGeneration.__name__
AutoFeatureExtractor.register(ArkAsrConfig, feature_extractor_class=WhisperFeatureExtractor)
AutoTokenizer.register(ArkAsrConfig, tokenizer_class=Qwen2Tokenizer)
AutoProcessor.register(ArkAsrConfig, ArkAsrProcessor)

__all__ = ["ArkAsrConfig", "ArkAsrForConditionalGeneration", "ArkAsrProcessor"]
