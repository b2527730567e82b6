"""Where models run when nobody says, and in which numbers."""

import torch


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """Dtype of weights for inference: float32 on the CPU, else bfloat16 where the device has it, else float16."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if device.type != "cuda" or torch.cuda.is_bf16_supported() else torch.float16
