"""Peak memory of what runs between two calls, on the CPU as Linux counts it and on an accelerator as torch does."""

import re
from pathlib import Path

import torch


def resident_bytes(kind: str) -> int:
    """Bytes of this process, now (VmRSS) or at their highest (VmHWM)."""
    return int(re.search(rf"{kind}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def start_watching_memory(device: str) -> None:
    """Forget the peak so far."""
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")
    else:
        torch.cuda.reset_peak_memory_stats()


def peak_bytes(device: str) -> int:
    """The highest since then."""
    return resident_bytes("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()
