"""What the estimate assumes about speech, drafts and batches, because no recipe states it."""

from dataclasses import dataclass
from itertools import pairwise

# (share of wrong words in the drafts, decoder passes as a share of the passes without drafts).
# Measured on 30 batches of 7 recordings on average: docs/performance.md, "Rollouts follow drafts".
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
# A batch is decoded until its longest transcript ends: 2,446 passes for 30 batches with a mean of 42 tokens.
LONGEST_TO_MEAN = 2446 / 30 / 42


@dataclass(frozen=True)
class Assumptions:
    """The first three attributes are options of `arkasr plan`.

    Attributes:
        utterance_seconds: length of every utterance.
        tokens_per_second: transcript tokens for each second of audio.
        draft_error: share of wrong words in a draft.
        padding: share of a batch that is padding; 3 to 9% were measured (docs/performance.md).
        slowest_to_mean: time of the slowest device divided by the mean, on more than one device.
    """

    utterance_seconds: float = 10.0
    tokens_per_second: float = 4.0
    draft_error: float = 0.05
    padding: float = 0.06
    slowest_to_mean: float = 1.1

    def decoder_passes(self, tokens: float, max_tokens: float, *, drafted: bool) -> float:
        """Decoder passes of a rollout whose transcripts have `tokens` tokens on average."""
        longest = min(tokens * LONGEST_TO_MEAN, max_tokens)
        return max(longest * (share_of_passes(self.draft_error) if drafted else 1.0), 1.0)


def share_of_passes(draft_error: float) -> float:
    """Passes with drafts as a share of the passes without, interpolated linearly between the measured points."""
    for (low, at_low), (high, at_high) in pairwise(MEASURED_PASSES):
        if draft_error <= high:
            return at_low + (at_high - at_low) * (draft_error - low) / (high - low)
    return 1.0
