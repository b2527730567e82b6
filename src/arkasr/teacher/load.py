"""A recogniser of either family from a `from_pretrained` folder or a hub name."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor

import arkasr.model  # noqa: F401  (registers Ark-ASR with the Auto classes)
from arkasr.errors import InputError
from arkasr.model.ark import ArkAsr
from arkasr.model.recognizer import Recognizer
from arkasr.teacher.qwen3_asr import Qwen3Asr

FAMILIES: dict[str, Any] = {"arkasr": ArkAsr, "qwen3_asr": Qwen3Asr}


def load_recognizer(
    name: str | Path, *, revision: str | None = None, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Recognizer:
    """Load model and processor.

    Args:
        name: a folder, or a repository on the model hub.
        revision: commit, tag or branch of a hub repository.
        dtype: of the weights.
        device: where the model goes.

    Raises:
        InputError: there is no whole model of a known family under that name.
    """
    source: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(name, **source)
        if config.model_type not in FAMILIES:
            raise InputError(f"model {name} is of type {config.model_type!r}; known are {', '.join(FAMILIES)}")
        processor = AutoProcessor.from_pretrained(name, **source)
        model = AutoModelForMultimodalLM.from_pretrained(name, dtype=dtype, use_safetensors=True, **source)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        first_line = str(error).splitlines()[0]
        raise InputError(f"model {name}: {first_line} Give a folder written by arkasr or a hub name") from error
    recognizer: Recognizer = FAMILIES[config.model_type](model.to(device), processor)
    return recognizer
