"""Where models run when nobody says, and in which numbers."""

import torch
from torch import Tensor

from arkasr.errors import InputError


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """Dtype of weights for inference: float32 on the CPU, else bfloat16 where the device has it, else float16."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if device.type != "cuda" or torch.cuda.is_bf16_supported() else torch.float16


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device, without waiting for what the device is at work on."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def widest_float(device: torch.device) -> torch.dtype:
    """What sums are kept in: float64, or float32 on a device that has no other."""
    return torch.float32 if device.type == "mps" else torch.float64


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 where it is that: what a loss is computed in."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def device_named(name: str | None) -> torch.device:
    """A device by name; None = `default_device()`.

    Raises:
        InputError: there is no such device here.
    """
    if name is None:
        return default_device()
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device {name}: there is no such kind; give cpu, cuda or cuda:1") from error
    if device.type not in ("cpu", default_device().type):
        raise InputError(f"device {name}: this machine, or this build of PyTorch, has none; take {default_device()}")
    return device
