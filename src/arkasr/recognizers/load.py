"""A recogniser of any known family from a `from_pretrained` folder or a hub name."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoProcessor, GenerationConfig
from transformers.utils.hub import cached_file, extract_commit_hash

import arkasr.model  # noqa: F401  (registers Ark-ASR with the Auto classes)
from arkasr.errors import InputError, first_line_of
from arkasr.model.checkpoint_integrity import first_broken_file, refuse_incomplete
from arkasr.recognizers.ark_asr import ArkAsr
from arkasr.recognizers.qwen3_asr import Qwen3Asr
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.whisper import Whisper

FAMILIES: dict[str, type[Recognizer]] = {"arkasr": ArkAsr, "qwen3_asr": Qwen3Asr, "whisper": Whisper}


def load_recognizer(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    device: str = "cpu",
    attention: str | None = None,
) -> Recognizer:
    """Load model and processor.

    Args:
        name: a folder, or a repository on the model hub.
        revision: commit, tag or branch of a hub repository.
        dtype: of the weights; "auto" = as stored.
        device: where the model goes.
        attention: `sdpa`, `eager` or `flash_attention_2`; None = the fastest that is available.

    Raises:
        InputError: the name has no complete model of a known family.
    """
    source: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    with input_errors(name):
        config, processor = _config_and_processor(name, source)
        family = FAMILIES[config.model_type]
        # As arguments of `from_pretrained`, these fields would also enter the generation config.
        config.update(dict(family.fixed_settings))
        options = {"config": config, "dtype": dtype, "attn_implementation": attention}
        model = load_complete(family.model_class, name, **options, **source)
        return family(model.to(device), processor)


def load_complete(model_class: Any, name: str | Path, **options: Any) -> Any:
    """A model from safetensors files that have every weight.

    Args:
        model_class: a class of Transformers.
        name: a folder, or a repository on the model hub.
        options: further arguments of `from_pretrained`.

    Raises:
        InputError: a weight is missing or has another shape than in the config.
    """
    model, loading_info = model_class.from_pretrained(
        name, use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True, **options
    )
    refuse_incomplete(name, loading_info)
    return model


def load_without_weights(name: str | Path, *, revision: str | None = None) -> Recognizer:
    """A recogniser for prompts and features only; its model is on the meta device.

    Raises:
        InputError: the name has no config and processor of a known family.
    """
    with input_errors(name):
        source: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
        config, processor = _config_and_processor(name, source)
        family = FAMILIES[config.model_type]
        with torch.device("meta"):
            model = family.model_class(config)
        model.generation_config = generation_config_of(name, source) or model.generation_config
        return family(model, processor)


def generation_config_of(name: str | Path, source: Mapping[str, Any]) -> GenerationConfig | None:
    """The generation config of a model; None if it has no such file.

    Args:
        name: a folder, or a repository on the model hub.
        source: further arguments of `from_pretrained`, such as the revision.
    """
    try:
        return GenerationConfig.from_pretrained(name, **source)
    except OSError:
        return None


def commit_of(name: str, revision: str | None = None) -> str | None:
    """The commit of the hub repository that a name loads; None if the hub's library does not report it.

    Raises:
        InputError: the name has no model.
    """
    with input_errors(name):
        return extract_commit_hash(cached_file(name, "config.json", revision=revision), None)


def _config_and_processor(name: str | Path, source: dict[str, Any]) -> tuple[Any, Any]:
    config = AutoConfig.from_pretrained(name, **source)
    if config.model_type not in FAMILIES:
        raise InputError(f"model {name} is of type {config.model_type!r}; known are {', '.join(FAMILIES)}")
    return config, AutoProcessor.from_pretrained(name, **source)


@contextmanager
def input_errors(name: str | Path) -> Iterator[None]:
    """Turn the errors of libraries that load a model into InputError."""
    try:
        yield
    except InputError:
        raise
    except SafetensorError as error:
        raise InputError(f"model {first_broken_file(name) or name}: {error}; download the file again") from error
    except (OSError, ValueError, ImportError) as error:
        raise InputError(
            f"model {name}: {first_line_of(error)}; give a folder written by arkasr or a hub name"
        ) from error
