"""Ark-ASR as native Transformers classes."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    Qwen2Tokenizer,
    WhisperFeatureExtractor,
)

from arkasr.model.config import ArkAsrConfig
from arkasr.model.model import ArkAsrForConditionalGeneration
from arkasr.model.processor import ArkAsrProcessor

AutoConfig.register(ArkAsrConfig.model_type, ArkAsrConfig)
AutoModelForCausalLM.register(ArkAsrConfig, ArkAsrForConditionalGeneration)
AutoModelForMultimodalLM.register(ArkAsrConfig, ArkAsrForConditionalGeneration)
AutoFeatureExtractor.register(ArkAsrConfig, feature_extractor_class=WhisperFeatureExtractor)
AutoTokenizer.register(ArkAsrConfig, tokenizer_class=Qwen2Tokenizer)
AutoProcessor.register(ArkAsrConfig, ArkAsrProcessor)

__all__ = ["ArkAsrConfig", "ArkAsrForConditionalGeneration", "ArkAsrProcessor"]
