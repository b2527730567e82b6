"""Figures of an optimizer step: gathered over micro-batches and processes, written to JSON Lines and TensorBoard.

Names are `group/metric`. Knows nothing of what is measured.
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
from arkasr.recognizers.device import widest_float


class Metrics:
    """Weighted means, minima and maxima that can be merged in any order.

    What is counted on a device stays there until it is asked for, and then comes in one piece.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._weights: dict[str, float] = defaultdict(float)
        self._extremes: dict[str, float] = {}
        self._counted: list[tuple[Callable[..., None], str, tuple[float | Tensor, ...]]] = []

    def mean(self, name: str, total: float | Tensor, weight: float | Tensor) -> None:
        """Count `total`, a sum over `weight` things, towards the mean called `name`."""
        self._counted.append((Metrics._add, name, (total, weight)))

    def minimum(self, name: str, value: float | Tensor) -> None:
        """Lower the minimum called `name`, whose name ends in `_min`; infinity is no value."""
        self._counted.append((Metrics._lower, name, (value,)))

    def maximum(self, name: str, value: float | Tensor) -> None:
        """Raise the maximum called `name`, whose name ends in `_max`; infinity is no value."""
        self._counted.append((Metrics._raise, name, (value,)))

    def merge(self, other: "Metrics") -> None:
        """Take in what another micro-batch or process has counted."""
        self._counted = [*self._counted, *other._counted]
        for name, total in other._sums.items():
            self.mean(name, total, other._weights[name])
        for name, value in other._extremes.items():
            (self.minimum if name.endswith("_min") else self.maximum)(name, value)

    def counted(self, name: str) -> tuple[float, float]:
        """The sum behind the mean called `name` and what it is divided by, both 0 where nothing was counted."""
        self._settle()
        return self._sums.get(name, 0.0), self._weights.get(name, 0.0)

    def document(self) -> dict[str, Any]:
        """All that was counted, JSON-able, for another process."""
        self._settle()
        return {"sums": self._sums, "weights": self._weights, "extremes": self._extremes}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Metrics":
        """What another process has counted."""
        metrics = cls()
        metrics._sums.update(document["sums"])
        metrics._weights.update(document["weights"])
        metrics._extremes.update(document["extremes"])
        return metrics

    def values(self) -> dict[str, float]:
        """Every figure that was counted at least once."""
        self._settle()
        means = {name: total / self._weights[name] for name, total in self._sums.items() if self._weights[name]}
        return means | self._extremes

    def _settle(self) -> None:
        counted, self._counted = self._counted, []
        known = iter(numbers_of([value for _, _, values in counted for value in values]))
        for count, name, values in counted:
            count(self, name, *(next(known) for _ in values))

    def _add(self, name: str, total: float, weight: float) -> None:
        self._sums[name] += total
        self._weights[name] += weight

    def _lower(self, name: str, value: float) -> None:
        if math.isfinite(value):
            self._extremes[name] = min(self._extremes.get(name, value), value)

    def _raise(self, name: str, value: float) -> None:
        if math.isfinite(value):
            self._extremes[name] = max(self._extremes.get(name, value), value)


def numbers_of(values: Sequence[float | Tensor]) -> list[float]:
    """The values as numbers of the host, for which it waits for every device once."""
    numbers = [0.0 if isinstance(value, Tensor) else float(value) for value in values]
    on_device: dict[torch.device, list[int]] = defaultdict(list)
    for place, value in enumerate(values):
        if isinstance(value, Tensor):
            on_device[value.device].append(place)
    for device, places in on_device.items():
        dtype = widest_float(device)
        together = torch.stack([torch.as_tensor(values[place]).detach().to(dtype) for place in places])
        for place, number in zip(places, together.tolist(), strict=True):
            numbers[place] = number
    return numbers


class PhaseClock:
    """Adds up seconds per phase of a step: wall-clock time, or the time of the GPU, whose queue is not waited for.

    A phase inside another stops the outer one's clock, so that the phases of a step add up to its time.
    """

    def __init__(self) -> None:
        self._open: list[str] = []
        self._since: float | torch.cuda.Event = 0.0
        self._laps: list[tuple[str, float | torch.cuda.Event, float | torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the time inside the `with` block towards `phase`."""
        self._enter(phase)
        try:
            yield
        finally:
            self._leave()

    def watch(self, modules: Iterable[nn.Module], phase: str) -> None:
        """Count every forward pass of `modules` towards `phase` as long as a phase is open around it."""
        for module in modules:
            module.register_forward_pre_hook(lambda *_: self._enter(phase) if self._open else None)
            module.register_forward_hook(lambda *_: self._leave() if len(self._open) > 1 else None)

    def reset(self) -> dict[str, float]:
        """Hand over the seconds since the last reset; waits for the GPU."""
        seconds: dict[str, float] = defaultdict(float)
        for phase, begin, end in self._laps:
            seconds[phase] += _seconds_between(begin, end)
        self._laps.clear()
        self._open.clear()
        return dict(seconds)

    def _enter(self, phase: str) -> None:
        self._count()
        self._open.append(phase)

    def _leave(self) -> None:
        self._count()
        self._open.pop()

    def _count(self) -> None:
        now = _now()
        if self._open:
            self._laps.append((self._open[-1], self._since, now))
        self._since = now


def _now() -> "float | torch.cuda.Event":
    if not torch.cuda.is_initialized():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds_between(begin: "float | torch.cuda.Event", end: "float | torch.cuda.Event") -> float:
    if isinstance(end, float):
        return end - begin if isinstance(begin, float) else 0.0
    if isinstance(begin, float):  # the GPU was first used in between
        return 0.0
    end.synchronize()
    return begin.elapsed_time(end) / 1000


class MetricsLog:
    """`metrics.jsonl` and TensorBoard events of one stage; lines from after `resumed_step` are taken back."""

    def __init__(self, folder: Path, resumed_step: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        kept = [line for line in read_metrics(path) if line["step"] <= resumed_step]
        write_atomically(path, (json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", buffering=1)
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one step."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush both."""
        self._file.close()
        self._writer.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a `metrics.jsonl`; a line cut short by a kill is left out."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines
