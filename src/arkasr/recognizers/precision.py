"""Dtypes: of stored weights, of products under autocast, and of sums and losses."""

from functools import reduce
from typing import Literal

import torch
from torch import Tensor

from arkasr.errors import InputError, nearest_of

WEIGHT_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtype_named(name: str) -> torch.dtype | Literal["auto"]:
    """A dtype of weights by name; `auto` = as stored.

    Raises:
        InputError: the name is not `auto`, `float32`, `bfloat16` or `float16`.
    """
    if name == "auto":
        return "auto"
    if name not in WEIGHT_DTYPES:
        raise InputError(f"dtype {name}: {nearest_of(name, ['auto', *WEIGHT_DTYPES])}")
    return WEIGHT_DTYPES[name]


def default_dtype(device: torch.device) -> torch.dtype:
    """Dtype of weights for inference: float32 on the CPU, else bfloat16 if the device has it, else float16."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if device.type != "cuda" or torch.cuda.is_bf16_supported() else torch.float16


def widest_float(device: torch.device) -> torch.dtype:
    """Dtype of long sums: float64, or float32 on a device without float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """Dtype of scores and losses: float64 if any of the tensors has it, else float32."""
    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in its `working_dtype`."""
    return tensor.to(working_dtype(tensor))


def product_dtype(tensor: Tensor) -> torch.dtype:
    """Dtype in which a matrix product reads the tensor: autocast's dtype if autocast is on, else its own."""
    device = tensor.device.type
    if tensor.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return tensor.dtype
    return torch.get_autocast_dtype(device)


def in_product_dtype(tensor: Tensor) -> Tensor:
    """The tensor in its `product_dtype`."""
    return tensor.to(product_dtype(tensor))
