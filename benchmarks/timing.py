"""The clock of the benchmarks, and how ratios of what it says are printed."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Result = TypeVar("Result")


def timed(work: Callable[[], Result], device: str) -> tuple[Result, float]:
    """What `work` gives and its seconds, from an idle device until the device is done with it."""
    _wait(device)
    started = time.perf_counter()
    result = work()
    _wait(device)
    return result, time.perf_counter() - started


def seconds_taken(work: Callable[[], object], device: str) -> float:
    """Seconds of `work` alone."""
    return timed(work, device)[1]


def spread(ratios: Sequence[float], digits: int = 2) -> str:
    """Median, lowest and highest."""
    median, *ends = (f"{ratio:.{digits}f}" for ratio in (statistics.median(ratios), min(ratios), max(ratios)))
    return f"{median} ({' to '.join(ends)})"


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
