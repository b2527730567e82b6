"""Notices while a run trains that more and more of the student's rollouts run away: they loop, or hit the cap."""

from collections import deque

import torch
from torch import Tensor

WINDOW_STEPS = 20
# Growth that is no chance: twice the share of before (or half of the rest), two points more, and so many rollouts.
GROWTH = 2.0
GROWTH_POINTS = 0.02
FEWEST_RUNAWAYS = 5


class LoopWatch:
    """Compares the last steps with the best ones so far, and after a warning with those that it warned of."""

    def __init__(self) -> None:
        self._counts: deque[tuple[int, int]] = deque(maxlen=WINDOW_STEPS)
        self._usual: float | None = None

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
        share = found / max(among, 1)
        if self._usual is None:
            self._usual = share
            return None
        before = self._usual
        # From 60 to 80% as much is lost as from 0 to 50%: half of what did not run away.
        grown = share >= GROWTH * before or 1 - share <= (1 - before) / GROWTH
        if found < FEWEST_RUNAWAYS or share < before + GROWTH_POINTS or not grown:
            self._usual = min(before, share)
            return None
        self._usual = share
        return (
            f"{share:.1%} of the rollouts of the last {WINDOW_STEPS} steps loop or hit max_new_tokens, where it was "
            f"{before:.1%}: the student is drifting; lower learning_rate, take an earlier checkpoint, or train the "
            "student with SFT first"
        )

    def tensor(self) -> Tensor:
        """What a resumed run must know, float64 `[2 * steps + 1]`: the usual share (−1 = none yet) and the counts."""
        usual = -1.0 if self._usual is None else self._usual
        return torch.tensor([usual, *(number for counts in self._counts for number in counts)], dtype=torch.float64)

    def restore(self, state: Tensor) -> None:
        """Take back what `tensor` gave."""
        usual, *counts = state.tolist()
        self._usual = None if usual < 0 else usual
        self._counts.clear()
        self._counts.extend(
            (int(runaway), int(among)) for runaway, among in zip(counts[::2], counts[1::2], strict=True)
        )
