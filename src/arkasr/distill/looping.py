"""Where a transcript starts to repeat itself over and over.

A teacher that is forced along a loop finds it as probable as the student does, and so teaches it.
"""

from collections.abc import Sequence

import numpy as np

# Tokens said again, at least: a phrase of four is a loop when it is said three times, a single token nine times.
REPEATED_TOKENS = 8
# The same where the transcript is cut off in the middle of the repetition.
REPEATED_TOKENS_AT_CAP = 4


def loop_start(tokens: Sequence[int], *, stopped: bool) -> int | None:
    """The place where the first loop starts over, None where there is none.

    A loop is a phrase that follows itself: at least twice, and for at least `REPEATED_TOKENS` tokens behind its first
    saying. At the end of a transcript that was cut off, once and `REPEATED_TOKENS_AT_CAP` tokens are enough.

    Args:
        tokens: a transcript `[n]`, its stop token included.
        stopped: whether it ends in the stop token.
    """
    written = np.asarray(tokens)[: len(tokens) - int(stopped)]
    starts = []
    for period in range(1, len(written) // 2 + 1):
        repeats = written[period:] == written[:-period]
        for first, last in _runs(repeats):
            cut_off = not stopped and last == len(repeats)
            enough = max(period, REPEATED_TOKENS_AT_CAP) if cut_off else max(2 * period, REPEATED_TOKENS)
            if last - first >= enough:
                starts.append(first + period)
                break
    return min(starts, default=None)


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """First place and the place behind the last of each run of True."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
