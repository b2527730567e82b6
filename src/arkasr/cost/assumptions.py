"""What a plan takes for granted of speech, drafts and batches, where no recipe says it."""

from dataclasses import dataclass
from itertools import pairwise

# Wrong words in a draft, and how many of the passes without drafts are left: docs/performance.md, "Rollouts follow
# drafts", measured on 30 batches of 7 recordings on average.
MEASURED_PASSES = (
    (0.0, 30 / 2446),
    (0.022, 215 / 2446),
    (0.053, 328 / 2446),
    (0.096, 461 / 2446),
    (0.19, 817 / 2446),
    (0.48, 1789 / 2446),
    (0.92, 2387 / 2446),
    (1.0, 1.0),
)
# A batch is decoded until its longest transcript is done: 2,446 passes for 30 batches of 42 tokens an utterance.
LONGEST_TRANSCRIPT = 2446 / 30 / 42


@dataclass(frozen=True)
class Assumptions:
    """Attributes are options of `arkasr plan` or stated in docs/scaling.md.

    Attributes:
        utterance_seconds: length of an utterance.
        tokens_per_second: of a transcript, for a second of audio.
        draft_error: share of the words of a draft that are wrong.
        padding: share of a batch that is padding; 3 to 9% measured (docs/performance.md).
        slowest: how much longer than the mean the slowest of several devices takes.
    """

    utterance_seconds: float = 10.0
    tokens_per_second: float = 4.0
    draft_error: float = 0.05
    padding: float = 0.06
    slowest: float = 1.1

    def passes(self, tokens: float, cap: float, *, drafted: bool) -> float:
        """Decoder passes of a rollout whose utterances have so many tokens each."""
        longest = min(tokens * LONGEST_TRANSCRIPT, cap)
        return max(longest * (passes_left(self.draft_error) if drafted else 1.0), 1.0)


def passes_left(draft_error: float) -> float:
    """Share of the passes without drafts that are left, between the measured points on straight lines."""
    for (low, at_low), (high, at_high) in pairwise(MEASURED_PASSES):
        if draft_error <= high:
            return at_low + (at_high - at_low) * (draft_error - low) / (high - low)
    return 1.0
