"""Training metrics as curves, downsampled for the screen. In: a `Run`. Out: lists of steps and values."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from arkasr.report.run_folder import Run, TrainedStage

MAX_POINTS = 200  # per curve


@dataclass(frozen=True)
class Curve:
    """Values over steps; each value is the mean, or the extreme, of the steps since the previous point."""

    steps: list[int]
    values: list[float]


@dataclass(frozen=True)
class StageLog:
    """The metrics of one stage and seed, one mapping per step."""

    stage: TrainedStage
    seed: int
    records: list[dict[str, Any]]

    def curve(self, metric: str) -> Curve | None:
        """The curve of a metric; None if it has no finite value."""
        points = [(record["step"], record[metric]) for record in self.records if _is_point(record, metric)]
        return downsample(points, metric) if points else None

    def metrics(self, group: str) -> list[str]:
        """Sorted names of the metrics in a group, such as `time`."""
        return sorted({name for record in self.records for name in record if name.startswith(f"{group}/")})


def stage_logs(run: Run, stages: Iterable[TrainedStage]) -> list[StageLog]:
    """The logs of these stages, of every seed that has one."""
    logs = [StageLog(stage, seed, run.metrics(stage.name, seed)) for stage in stages for seed in run.seeds]
    return [log for log in logs if log.records]


def downsample(points: Sequence[tuple[int, float]], metric: str) -> Curve:
    """One point per window of equal length, at most `MAX_POINTS`: its last step and its mean value.

    If the metric's name ends in `_min` or `_max`, the value is the window's extreme.
    """
    length = math.ceil(len(points) / MAX_POINTS)
    windows = [points[first : first + length] for first in range(0, len(points), length)]
    values = [_reduce([value for _, value in window], metric) for window in windows]
    return Curve([window[-1][0] for window in windows], [float(f"{value:.4g}") for value in values])


def _reduce(values: Sequence[float], metric: str) -> float:
    if metric.endswith("_min"):
        return min(values)
    if metric.endswith("_max"):
        return max(values)
    return math.fsum(values) / len(values)


def _is_point(record: Mapping[str, Any], metric: str) -> bool:
    value = record.get(metric)
    return isinstance(record.get("step"), int) and isinstance(value, (int, float)) and math.isfinite(value)
