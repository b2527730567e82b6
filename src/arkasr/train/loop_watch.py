"""Warns during training when the share of runaway rollouts grows: those that loop or reach the length limit."""

import math
from collections import deque

import torch
from torch import Tensor

WINDOW_STEPS = 20  # consecutive steps form a window
# Growth counts if all three limits are exceeded.
GROWTH = 2.0  # factor of the share's rise, or of the fall of the other rollouts' share
GROWTH_POINTS = 0.02  # rise of the share
DEVIATIONS = 4.5  # rise in standard deviations


class LoopWatch:
    """Compares the last steps with the best window so far, or with the window of the last warning."""

    def __init__(self) -> None:
        self._counts: deque[tuple[int, int]] = deque(maxlen=WINDOW_STEPS)
        self._best: tuple[int, int] | None = None

    def step(self, runaway: int, rollouts: int) -> str | None:
        """Count a step.

        Args:
            runaway: runaway rollouts of all processes.
            rollouts: rollouts of all processes.

        Returns:
            A warning for the user, in one line, if the share has grown; else None.
        """
        self._counts.append((runaway, rollouts))
        if len(self._counts) < WINDOW_STEPS:
            return None
        runaway, rollouts = (sum(column) for column in zip(*self._counts, strict=True))
        current = runaway, max(rollouts, 1)
        best = self._best or current
        if not _has_grown(best, current):
            self._best = min(best, current, key=_share)
            return None
        self._best = current
        return (
            f"{_share(current):.1%} of the rollouts of the last {WINDOW_STEPS} steps loop or reach max_new_tokens, up "
            f"from {_share(best):.1%}: the student is drifting; lower learning_rate, use an earlier checkpoint, or "
            "train the student with SFT first"
        )

    def tensor(self) -> Tensor:
        """The state for a checkpoint, int64 `[2 * steps + 2]`: the best window (-1 = none), then the last steps."""
        best = self._best or (-1, -1)
        return torch.tensor([*best, *(number for counts in self._counts for number in counts)])

    def restore(self, state: Tensor) -> None:
        """Load what `tensor` returned."""
        numbers = state.tolist()
        best, *counts = zip(numbers[::2], numbers[1::2], strict=True)
        self._best = None if best == (-1, -1) else best
        self._counts.clear()
        self._counts.extend(counts)


def _share(counts: tuple[int, int]) -> float:
    runaway, rollouts = counts
    return runaway / rollouts


def _has_grown(best: tuple[int, int], current: tuple[int, int]) -> bool:
    before, share = _share(best), _share(current)
    # A rise from 60% to 80% is as bad as one from 0% to 50%: half of the good rollouts are lost.
    large = share >= GROWTH * before or 1 - share <= (1 - before) / GROWTH
    deviation = math.sqrt(best[0] / best[1] ** 2 + current[0] / current[1] ** 2)
    return large and share >= before + GROWTH_POINTS and share - before >= DEVIATIONS * deviation
