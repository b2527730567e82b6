"""A number that differs between models with different weights, for example those of two training steps."""

import zlib
from typing import Any

import torch

VALUES_PER_PARAMETER = 64


def fingerprint(model: Any) -> int:
    """A checksum of every parameter's name and first values."""
    checksum = 0
    for name, parameter in model.named_parameters():
        values = parameter.detach().flatten()[:VALUES_PER_PARAMETER].to("cpu", torch.float32)
        checksum = zlib.crc32(values.numpy().tobytes(), zlib.crc32(name.encode(), checksum))
    return checksum
