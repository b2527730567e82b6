"""Identifiers of models and of computations: what differs if results may differ."""

import hashlib
import itertools
import os
import platform
import zlib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VALUES_PER_PARAMETER = 64
# Variables that select the processor's instructions, and so how sums are rounded.
INSTRUCTION_VARIABLES = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA")


def fingerprint(model: Any) -> int:
    """A checksum of every parameter's name and first values; enough to tell two steps of a training apart."""
    checksum = 0
    for name, parameter in model.named_parameters():
        values = parameter.detach().flatten()[:VALUES_PER_PARAMETER].to("cpu", torch.float32)
        checksum = zlib.crc32(values.numpy().tobytes(), zlib.crc32(name.encode(), checksum))
    return checksum


def digest_of(parts: Iterable[str | Tensor]) -> str:
    """A SHA-256 in hexadecimal digits of texts, and of the type, shape and values of tensors."""
    digest = hashlib.sha256()
    for part in parts:
        text = part if isinstance(part, str) else f"{part.dtype}{list(part.shape)}"
        digest.update(f"{len(text)}:{text}".encode())
        if isinstance(part, Tensor):
            digest.update(part.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digest_of_model(model: Any) -> str:
    """A digest of a Transformers model: of its config, and of every value of its parameters and buffers."""
    named = itertools.chain(model.named_parameters(), model.named_buffers())
    return digest_of([model.config.to_json_string(), *itertools.chain.from_iterable(named)])


def arithmetic(model: Any, device: torch.device) -> dict[str, Any]:
    """What changes the last bits of a forward pass besides the model and its batch, as JSON values.

    Autocast counts as it is at the time of the call.
    """
    kind = device.type
    modules = [module for module in model.modules() if hasattr(module, "config")]
    return {
        "packages": _versions(),
        "device": [torch.cuda.get_device_name(device)] if kind == "cuda" else [kind, *_processor()],
        "autocast": str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else None,
        "float32_products": torch.get_float32_matmul_precision(),
        "attention": sorted({str(module.config._attn_implementation) for module in modules}),
    }


@cache
def processor_name() -> str:
    """The processor of this machine."""
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        for line in cpu_info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _processor() -> list[Any]:
    instructions = [torch.backends.cpu.get_cpu_capability(), *map(os.environ.get, INSTRUCTION_VARIABLES)]
    return [processor_name(), *instructions, torch.get_num_threads()]


@cache
def _versions() -> list[str]:
    return [version(name) for name in ("arkasr", "torch", "transformers")]
