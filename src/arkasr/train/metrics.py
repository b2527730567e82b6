"""Metrics of an optimizer step: merged over micro-batches and processes, written to JSON Lines and TensorBoard.

Names are `group/metric`. The meaning of a metric is left to others.
"""

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from arkasr.files import write_atomically
from arkasr.recognizers.precision import widest_float


class Metrics:
    """Weighted means, minima and maxima that can be merged in any order.

    Values on a device stay there until a result is needed. Then one transfer copies all of them to the host.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._weights: dict[str, float] = defaultdict(float)
        self._extremes: dict[str, float] = {}
        self._recorded: list[tuple[Callable[..., None], str, tuple[float | Tensor, ...]]] = []

    def mean(self, name: str, total: float | Tensor, weight: float | Tensor) -> None:
        """Add `total`, a sum over `weight` items, to the mean called `name`."""
        self._recorded.append((Metrics._add, name, (total, weight)))

    def minimum(self, name: str, value: float | Tensor) -> None:
        """Update the minimum called `name`, which must end in `_min`; ignores values that are not finite."""
        self._recorded.append((Metrics._lower, name, (value,)))

    def maximum(self, name: str, value: float | Tensor) -> None:
        """Update the maximum called `name`, which must end in `_max`; ignores values that are not finite."""
        self._recorded.append((Metrics._raise, name, (value,)))

    def merge(self, other: "Metrics") -> None:
        """Add the metrics of another micro-batch or process."""
        self._recorded = [*self._recorded, *other._recorded]
        for name, total in other._sums.items():
            self.mean(name, total, other._weights[name])
        for name, value in other._extremes.items():
            (self.minimum if name.endswith("_min") else self.maximum)(name, value)

    def sum_and_weight(self, name: str) -> tuple[float, float]:
        """Sum and weight of the mean called `name`; both 0 if nothing was added."""
        self._transfer()
        return self._sums.get(name, 0.0), self._weights.get(name, 0.0)

    def to_json(self) -> dict[str, Any]:
        """Sums, weights and extremes, for another process."""
        self._transfer()
        return {"sums": self._sums, "weights": self._weights, "extremes": self._extremes}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Metrics":
        """The inverse of `to_json`."""
        metrics = cls()
        metrics._sums.update(document["sums"])
        metrics._weights.update(document["weights"])
        metrics._extremes.update(document["extremes"])
        return metrics

    def values(self) -> dict[str, float]:
        """Every mean with a weight, and every extreme, by name."""
        self._transfer()
        means = {name: total / self._weights[name] for name, total in self._sums.items() if self._weights[name]}
        return means | self._extremes

    def _transfer(self) -> None:
        recorded, self._recorded = self._recorded, []
        numbers = iter(to_host([value for _, _, values in recorded for value in values]))
        for record, name, values in recorded:
            record(self, name, *(next(numbers) for _ in values))

    def _add(self, name: str, total: float, weight: float) -> None:
        self._sums[name] += total
        self._weights[name] += weight

    def _lower(self, name: str, value: float) -> None:
        if math.isfinite(value):
            self._extremes[name] = min(self._extremes.get(name, value), value)

    def _raise(self, name: str, value: float) -> None:
        if math.isfinite(value):
            self._extremes[name] = max(self._extremes.get(name, value), value)


def to_host(values: Sequence[float | Tensor]) -> list[float]:
    """The values as Python floats; synchronises once with every device."""
    numbers = [0.0 if isinstance(value, Tensor) else float(value) for value in values]
    indices_of: dict[torch.device, list[int]] = defaultdict(list)
    for index, value in enumerate(values):
        if isinstance(value, Tensor):
            indices_of[value.device].append(index)
    for device, indices in indices_of.items():
        dtype = widest_float(device)
        stacked = torch.stack([torch.as_tensor(values[index]).detach().to(dtype) for index in indices])
        for index, number in zip(indices, stacked.tolist(), strict=True):
            numbers[index] = number
    return numbers


class PhaseClock:
    """Adds up the seconds of each phase of a step: wall-clock time, or GPU time by CUDA events, without synchronising.

    A nested phase pauses the outer one, so that the phases of a step add up to its time.
    """

    def __init__(self) -> None:
        self._open: list[str] = []
        self._lap_start: float | torch.cuda.Event = 0.0
        self._laps: list[tuple[str, float | torch.cuda.Event, float | torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the time inside the `with` block to `phase`."""
        self._enter(phase)
        try:
            yield
        finally:
            self._leave()

    def watch(self, modules: Iterable[nn.Module], phase: str) -> None:
        """Add every forward pass of `modules` to `phase` while another phase is open."""
        for module in modules:
            module.register_forward_pre_hook(lambda *_: self._enter(phase) if self._open else None)
            module.register_forward_hook(lambda *_: self._leave() if len(self._open) > 1 else None)

    def reset(self) -> dict[str, float]:
        """The seconds of each phase since the last reset; synchronises with the GPU."""
        seconds: dict[str, float] = defaultdict(float)
        for phase, begin, end in self._laps:
            seconds[phase] += _seconds_between(begin, end)
        self._laps.clear()
        self._open.clear()
        return dict(seconds)

    def _enter(self, phase: str) -> None:
        self._end_lap()
        self._open.append(phase)

    def _leave(self) -> None:
        self._end_lap()
        self._open.pop()

    def _end_lap(self) -> None:
        now = _now()
        if self._open:
            self._laps.append((self._open[-1], self._lap_start, now))
        self._lap_start = now


def _now() -> "float | torch.cuda.Event":
    if not torch.cuda.is_initialized():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds_between(begin: "float | torch.cuda.Event", end: "float | torch.cuda.Event") -> float:
    if isinstance(end, float):
        return end - begin if isinstance(begin, float) else 0.0
    if isinstance(begin, float):  # CUDA was initialised during this lap
        return 0.0
    end.synchronize()
    return begin.elapsed_time(end) / 1000


class MetricsLog:
    """`metrics.jsonl` and TensorBoard events of one stage; removes the lines of steps after `resumed_step`."""

    def __init__(self, folder: Path, resumed_step: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        kept = [line for line in read_metrics(path) if line["step"] <= resumed_step]
        write_atomically(path, (json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", buffering=1)
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append the metrics of a step."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close both files."""
        self._file.close()
        self._writer.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, without a line that a kill cut short."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines
