"""Peak memory: resident memory of the process on a CPU (Linux), PyTorch's allocated memory on a GPU."""

import re
from pathlib import Path

import torch


def resident_bytes(kind: str) -> int:
    """Resident memory of this process: `VmRSS` is the present value, `VmHWM` the peak."""
    return int(re.search(rf"{kind}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def reset_peak_memory(device: str) -> None:
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")
    else:
        torch.cuda.reset_peak_memory_stats()


def peak_bytes(device: str) -> int:
    """Peak since `reset_peak_memory`."""
    return resident_bytes("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()
