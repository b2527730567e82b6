"""Training metrics as curves, thinned to what a screen can show.

In: a `Run`. Out: lists of steps and values. Knows nothing of charts.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from arkasr.report.run_folder import Run, Stage

MOST_POINTS = 200  # of a curve; more than a telephone has pixels for


@dataclass(frozen=True)
class Curve:
    """Values over steps: each the mean, or the extreme, of the steps since the one before."""

    steps: list[int]
    values: list[float]


@dataclass(frozen=True)
class History:
    """What one stage logged under one seed, a mapping a step."""

    stage: Stage
    seed: int
    lines: list[dict[str, Any]]

    def curve(self, metric: str) -> Curve | None:
        """The curve of a metric; None where it has no finite value."""
        points = [(line["step"], line[metric]) for line in self.lines if _is_point(line, metric)]
        return thin(points, metric) if points else None

    def metrics(self, group: str) -> list[str]:
        """Names of the metrics of a group, such as `time`, sorted."""
        return sorted({name for line in self.lines for name in line if name.startswith(f"{group}/")})


def histories(run: Run, stages: Iterable[Stage]) -> list[History]:
    """The logs of some stages, for every seed that has one."""
    found = [History(stage, seed, run.metrics(stage.name, seed)) for stage in stages for seed in run.seeds]
    return [history for history in found if history.lines]


def thin(points: Sequence[tuple[int, float]], metric: str) -> Curve:
    """At most `MOST_POINTS` of them: windows of equal length, each by its last step and its mean.

    A metric whose name ends in `_min` or `_max` keeps the window's extreme.
    """
    length = math.ceil(len(points) / MOST_POINTS)
    windows = [points[first : first + length] for first in range(0, len(points), length)]
    values = [_reduce([value for _, value in window], metric) for window in windows]
    return Curve([window[-1][0] for window in windows], [float(f"{value:.4g}") for value in values])


def _reduce(values: Sequence[float], metric: str) -> float:
    if metric.endswith("_min"):
        return min(values)
    if metric.endswith("_max"):
        return max(values)
    return math.fsum(values) / len(values)


def _is_point(line: Mapping[str, Any], metric: str) -> bool:
    value = line.get(metric)
    return isinstance(line.get("step"), int) and isinstance(value, (int, float)) and math.isfinite(value)
