"""Notices while a run trains that more and more of the student's rollouts run away: they loop, or hit the cap."""

import math
from collections import deque

import torch
from torch import Tensor

WINDOW_STEPS = 20
# Growth that matters: twice the share of before (or half of the rest), two points more; and that is no chance: so many
# standard deviations of the two counts.
GROWTH = 2.0
GROWTH_POINTS = 0.02
DEVIATIONS = 4.5


class LoopWatch:
    """Compares the last steps with the best ones so far, and after a warning with those that it warned of."""

    def __init__(self) -> None:
        self._counts: deque[tuple[int, int]] = deque(maxlen=WINDOW_STEPS)
        self._best: tuple[int, int] | None = None

    def step(self, runaway: int, rollouts: int) -> str | None:
        """Count a step; a line for the user where the share has grown.

        Args:
            runaway: rollouts of all processes that loop or hit the cap.
            rollouts: all of them.
        """
        self._counts.append((runaway, rollouts))
        if len(self._counts) < WINDOW_STEPS:
            return None
        found, among = (sum(column) for column in zip(*self._counts, strict=True))
        now = found, max(among, 1)
        best = self._best or now
        if not _has_grown(best, now):
            self._best = min(best, now, key=_share)
            return None
        self._best = now
        return (
            f"{_share(now):.1%} of the rollouts of the last {WINDOW_STEPS} steps loop or hit max_new_tokens, where it "
            f"was {_share(best):.1%}: the student is drifting; lower learning_rate, take an earlier checkpoint, or "
            "train the student with SFT first"
        )

    def tensor(self) -> Tensor:
        """What a resumed run must know, int64 `[2 * steps + 2]`: the best window (-1 = none yet) and the last steps."""
        best = self._best or (-1, -1)
        return torch.tensor([*best, *(number for counts in self._counts for number in counts)])

    def restore(self, state: Tensor) -> None:
        """Take back what `tensor` gave."""
        numbers = state.tolist()
        best, *counts = zip(numbers[::2], numbers[1::2], strict=True)
        self._best = None if best == (-1, -1) else best
        self._counts.clear()
        self._counts.extend(counts)


def _share(counts: tuple[int, int]) -> float:
    found, among = counts
    return found / among


def _has_grown(best: tuple[int, int], now: tuple[int, int]) -> bool:
    before, share = _share(best), _share(now)
    # From 60 to 80% as much is lost as from 0 to 50%: half of what did not run away.
    much = share >= GROWTH * before or 1 - share <= (1 - before) / GROWTH
    chance = math.sqrt(best[0] / best[1] ** 2 + now[0] / now[1] ** 2)
    return much and share >= before + GROWTH_POINTS and share - before >= DEVIATIONS * chance
