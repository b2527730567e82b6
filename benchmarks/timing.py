"""Wall-clock times of the benchmarks, and how their ratios are printed."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Result = TypeVar("Result")


def timed(function: Callable[[], Result], device: str) -> tuple[Result, float]:
    """Call `function` and return its result and its seconds; waits for the device before and after."""
    _synchronize(device)
    started = time.perf_counter()
    result = function()
    _synchronize(device)
    return result, time.perf_counter() - started


def seconds_taken(function: Callable[[], object], device: str) -> float:
    return timed(function, device)[1]


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Ratios of pairs; both lists have the same length."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def median_and_range(values: Sequence[float], digits: int = 2) -> str:
    """For example `1.29 (1.23 to 1.35)`."""
    median, *ends = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{median} ({' to '.join(ends)})"


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
