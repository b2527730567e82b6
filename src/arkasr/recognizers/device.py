"""Devices by name, and copies of tensors to a device."""

import torch
from torch import Tensor

from arkasr.errors import InputError


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def device_named(name: str | None) -> torch.device:
    """A device by name; None = `default_device()`.

    Raises:
        InputError: the name is unknown, or this machine has no such device.
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


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the host to a device without waiting for work that is queued on the device."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
