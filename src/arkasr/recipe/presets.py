"""Models with random weights: the presets of all model families, and the config fields that a recipe may change."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from transformers import PreTrainedConfig, Qwen3ASRConfig

from arkasr.errors import nearest_of
from arkasr.model.config import ArkAsrConfig
from arkasr.recognizers.ark_asr import ARK_ASR_PRESETS, ArkAsr, build_ark_asr
from arkasr.recognizers.qwen3_asr import QWEN3_ASR_PRESETS, Qwen3Asr, build_qwen3_asr
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.tokenizer import BaseVocabulary

PRESETS: dict[str, dict[str, Any]] = ARK_ASR_PRESETS | QWEN3_ASR_PRESETS
Builder = Callable[[Mapping[str, Any], BaseVocabulary], Recognizer]


def check_preset(preset: str, sizes: Mapping[str, Any]) -> None:
    """Check that a preset exists and that its model family has the config fields in `sizes`.

    Raises:
        ValueError: names the preset or the field, and the nearest known one.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset: there is no {preset!r}; {nearest_of(preset, PRESETS)}")
    if preset in ARK_ASR_PRESETS:
        config: PreTrainedConfig = ArkAsrConfig(**ARK_ASR_PRESETS[preset])
    else:
        config = Qwen3ASRConfig(**QWEN3_ASR_PRESETS[preset])
    _check_fields("sizes", sizes, PRESETS[preset], config)


def parts_of_preset(preset: str) -> Collection[str]:
    """Names of the parts of a preset's model, as in `Recognizer.parts`."""
    return (ArkAsr if preset in ARK_ASR_PRESETS else Qwen3Asr).parts


def build_preset(preset: str, sizes: Mapping[str, Any], vocabulary: BaseVocabulary) -> Recognizer:
    """A model with random weights from torch's global generator. `sizes` override the preset's config fields."""
    build: Builder = build_ark_asr if preset in ARK_ASR_PRESETS else build_qwen3_asr
    return build(merged(PRESETS[preset], sizes), vocabulary)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `base` in which `changes` override values, nested mappings key by key."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _check_fields(parent: str, changes: Mapping[str, Any], preset: Mapping[str, Any], config: Any) -> None:
    known = {*preset, *(name for name in vars(config) if not name.startswith("_"))}
    for key, value in changes.items():
        if key not in known:
            raise ValueError(f"{parent}: unknown key {key!r}; {nearest_of(key, known)}")
        sub_config = getattr(config, key, None)
        if isinstance(sub_config, PreTrainedConfig):
            if not isinstance(value, dict):
                raise ValueError(f"{parent}.{key}: expected a mapping of config fields, found {value!r}")
            _check_fields(f"{parent}.{key}", value, preset.get(key, {}), sub_config)
