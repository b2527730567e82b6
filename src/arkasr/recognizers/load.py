"""A recogniser of either family from a `from_pretrained` folder or a hub name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor
from transformers.utils.hub import cached_file, extract_commit_hash

import arkasr.model  # noqa: F401  (registers Ark-ASR with the Auto classes)
from arkasr.errors import InputError, first_line_of, nearest_of
from arkasr.model.checkpoint_integrity import first_broken_file
from arkasr.recognizers.ark_asr import ArkAsr
from arkasr.recognizers.qwen3_asr import Qwen3Asr
from arkasr.recognizers.recognizer import Recognizer

FAMILIES: dict[str, Any] = {"arkasr": ArkAsr, "qwen3_asr": Qwen3Asr}

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtype_named(name: str) -> torch.dtype | Literal["auto"]:
    """A dtype of weights by name.

    Raises:
        InputError: it is not `auto`, `float32`, `bfloat16` or `float16`.
    """
    if name == "auto":
        return "auto"
    if name not in DTYPES:
        raise InputError(f"dtype {name}: {nearest_of(name, ['auto', *DTYPES])}")
    return DTYPES[name]


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
        attention: `sdpa`, `eager` or `flash_attention_2`; None = the best that the machine has.

    Raises:
        InputError: there is no whole model of a known family under that name.
    """
    source: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    with _input_errors(name):
        config, processor = _described(name, source)
        model = AutoModelForMultimodalLM.from_pretrained(
            name, dtype=dtype, attn_implementation=attention, use_safetensors=True, **source
        )
    recognizer: Recognizer = FAMILIES[config.model_type](model.to(device), processor)
    return recognizer


def load_without_weights(name: str | Path, *, revision: str | None = None) -> Recognizer:
    """A recogniser that writes prompts and makes features, and cannot compute: its model is of shapes only.

    Raises:
        InputError: there are no config and processor of a known family under that name.
    """
    with _input_errors(name):
        config, processor = _described(name, {"revision": revision, "trust_remote_code": False})
        with torch.device("meta"):
            model = AutoModelForMultimodalLM.from_config(config)
    recognizer: Recognizer = FAMILIES[config.model_type](model, processor)
    return recognizer


def commit_of(name: str, revision: str | None = None) -> str | None:
    """The commit of a hub repository that is loaded under a name; None where the hub's library does not say.

    Raises:
        InputError: there is no model under that name.
    """
    with _input_errors(name):
        return extract_commit_hash(cached_file(name, "config.json", revision=revision), None)


def _described(name: str | Path, source: dict[str, Any]) -> tuple[Any, Any]:
    config = AutoConfig.from_pretrained(name, **source)
    if config.model_type not in FAMILIES:
        raise InputError(f"model {name} is of type {config.model_type!r}; known are {', '.join(FAMILIES)}")
    return config, AutoProcessor.from_pretrained(name, **source)


@contextmanager
def _input_errors(name: str | Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except SafetensorError as error:
        raise InputError(f"model {first_broken_file(name) or name}: {error}; fetch the file anew") from error
    except (OSError, ValueError, ImportError) as error:
        raise InputError(
            f"model {name}: {first_line_of(error)} Give a folder written by arkasr or a hub name"
        ) from error
