"""The presets that a recipe may build a model from, and which of their config fields it may change."""

from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedConfig, Qwen3ASRConfig

from arkasr.errors import nearest_of
from arkasr.model.config import ArkAsrConfig
from arkasr.recognizers.ark_asr import ARK_ASR_PRESETS, build_ark_asr
from arkasr.recognizers.qwen3_asr import QWEN3_ASR_PRESETS, build_qwen3_asr
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.tokenizer import BaseVocabulary

PRESETS: dict[str, dict[str, Any]] = ARK_ASR_PRESETS | QWEN3_ASR_PRESETS
Builder = Callable[[Mapping[str, Any], BaseVocabulary], Recognizer]


def check_preset(preset: str, sizes: Mapping[str, Any]) -> None:
    """Refuse a preset that does not exist and config fields that its family does not have.

    Raises:
        ValueError: names the preset or the field, and the nearest.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset: there is no {preset!r}; {nearest_of(preset, PRESETS)}")
    if preset in ARK_ASR_PRESETS:
        config: PreTrainedConfig = ArkAsrConfig(**ARK_ASR_PRESETS[preset])
    else:
        config = Qwen3ASRConfig(**QWEN3_ASR_PRESETS[preset])
    _check_fields("sizes", sizes, PRESETS[preset], config)


def build_preset(preset: str, sizes: Mapping[str, Any], vocabulary: BaseVocabulary) -> Recognizer:
    """A model with random weights (torch's global generator): the preset's config fields, `sizes` laid over them."""
    build: Builder = build_ark_asr if preset in ARK_ASR_PRESETS else build_qwen3_asr
    return build(merged(PRESETS[preset], sizes), vocabulary)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, mapping into mapping."""
    result = dict(base)
    for key, value in changes.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def _check_fields(place: str, changes: Mapping[str, Any], preset: Mapping[str, Any], config: Any) -> None:
    known = {*preset, *(name for name in vars(config) if not name.startswith("_"))}
    for key, value in changes.items():
        if key not in known:
            raise ValueError(f"{place}: unknown key {key!r}; {nearest_of(key, known)}")
        below = getattr(config, key, None)
        if isinstance(below, PreTrainedConfig):
            if not isinstance(value, dict):
                raise ValueError(f"{place}.{key}: expected fields of the config, found {value!r}")
            _check_fields(f"{place}.{key}", value, preset.get(key, {}), below)
