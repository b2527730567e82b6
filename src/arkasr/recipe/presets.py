"""Models with random weights: the presets of all model families, and the config fields that a recipe may change."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from transformers import PreTrainedConfig, Qwen3ASRConfig, WhisperConfig

from arkasr.errors import InputError, nearest_of
from arkasr.model.config import ArkAsrConfig
from arkasr.recognizers.ark_asr import ARK_ASR_PRESETS, ArkAsr, build_ark_asr
from arkasr.recognizers.qwen3_asr import QWEN3_ASR_PRESETS, Qwen3Asr, build_qwen3_asr
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.tokenizer import BaseVocabulary
from arkasr.recognizers.whisper import WHISPER_PRESETS, Whisper, build_whisper

PRESETS: dict[str, dict[str, Any]] = ARK_ASR_PRESETS | QWEN3_ASR_PRESETS | WHISPER_PRESETS


def check_preset(preset: str, sizes: Mapping[str, Any]) -> None:
    """Check that a preset exists and that its model family has the config fields in `sizes`.

    Raises:
        ValueError: names the preset or the field, and the nearest known one.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset: there is no {preset!r}; {nearest_of(preset, PRESETS)}")
    config_class = _family_of(preset).config
    _check_fields("sizes", sizes, PRESETS[preset], config_class(**PRESETS[preset]))


def parts_of_preset(preset: str) -> Collection[str]:
    """Names of the parts of a preset's model, as in `Recognizer.parts`."""
    return _family_of(preset).recognizer.parts


def build_preset(preset: str, sizes: Mapping[str, Any], vocabulary: BaseVocabulary) -> Recognizer:
    """A model with random weights from torch's global generator. `sizes` override the preset's config fields."""
    return _family_of(preset).build(merged(PRESETS[preset], sizes), vocabulary)


def with_part(sizes: Mapping[str, Any], part: Mapping[str, Any], key: str, source: str) -> dict[str, Any]:
    """`sizes` with the config fields of a trained part of the model.

    Args:
        sizes: as for `build_preset`.
        part: config fields of the trained part.
        key: of the model in the recipe, for the message.
        source: name of the trained part, for the message.

    Raises:
        InputError: `sizes` has another value than the trained part.
    """
    for field, value in part.items():
        if field not in sizes:
            continue
        if isinstance(value, Mapping) and isinstance(sizes[field], Mapping):
            with_part(sizes[field], value, f"{key}.{field}", source)
        elif sizes[field] != value:
            raise InputError(f"{key}.{field}: is {sizes[field]}, but {source} has {value}; remove the key")
    return merged(sizes, part)


class _Family(NamedTuple):
    config: type[PreTrainedConfig]
    recognizer: type[Recognizer]
    build: Callable[[Mapping[str, Any], BaseVocabulary], Recognizer]


def _family_of(preset: str) -> _Family:
    if preset in ARK_ASR_PRESETS:
        return _Family(ArkAsrConfig, ArkAsr, build_ark_asr)
    if preset in QWEN3_ASR_PRESETS:
        return _Family(Qwen3ASRConfig, Qwen3Asr, build_qwen3_asr)
    return _Family(WhisperConfig, Whisper, build_whisper)


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
