"""The clock of the benchmarks."""

import time
from collections.abc import Callable

import torch


def seconds_taken(work: Callable[[], object], device: str) -> float:
    """Seconds of `work`, until the device is done with it."""
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
