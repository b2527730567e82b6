"""Stops a run whose teacher can score too few rollout tokens (docs/objective.md, "When some ids have no counterpart").

In: counts of a step, over all processes. The alignment itself is in `arkasr.distill.alignment`.
"""

import torch
from torch import Tensor

from arkasr.errors import InputError

# With fewer tokens, the share does not show how well two vocabularies match.
MIN_TOKENS = 200


class PairingWatch:
    """Counts the paired positions since the start of training.

    Args:
        min_share: the share of paired positions below which the run stops.
    """

    def __init__(self, min_share: float) -> None:
        self._min_share = min_share
        self._paired = self._tokens = 0

    def step(self, paired: int, tokens: int) -> None:
        """Add the rollout tokens of one optimizer step, and the number of them with a teacher position.

        Raises:
            InputError: the share since the start of training is too low.
        """
        self._paired += paired
        self._tokens += tokens
        if self._tokens < MIN_TOKENS:
            return
        share = self._paired / self._tokens
        if share < self._min_share:
            raise InputError(
                f"objective.min_paired_share: the teacher can score {share:.0%} of the rollout tokens, less than the "
                f"required {self._min_share:.0%}; use a teacher with a closer vocabulary, or lower this key"
            )

    def tensor(self) -> Tensor:
        """The state for a checkpoint, int64 `[2]`: paired tokens and all tokens."""
        return torch.tensor([self._paired, self._tokens])

    def restore(self, state: Tensor) -> None:
        """Load what `tensor` returned."""
        self._paired, self._tokens = state.tolist()
