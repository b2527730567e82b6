"""The options of the objective, and their checks (docs/objective.md, "Options")."""

import math
from dataclasses import dataclass

from arkasr.errors import InputError

CHOICES = {
    "divergence": ("forward_kl", "reverse_kl", "jsd"),
    "support": ("union", "teacher", "student", "intersection", "full"),
    "tail": ("none", "bucket"),
}


@dataclass(frozen=True, slots=True)
class Objective:
    """Which divergence is computed, and on which support. The fields are options of `union_topk_kl`.

    Raises:
        InputError: a value does not exist or is out of range; the message names its recipe key.
    """

    top_k: int = 32
    temperature: float = 1.0
    divergence: str = "forward_kl"
    beta: float = 0.5
    support: str = "union"
    tail: str = "none"
    upstream_scores: bool = False

    def __post_init__(self) -> None:
        for key, known in CHOICES.items():
            value = getattr(self, key)
            if value not in known:
                raise InputError(f"objective.{key}: {value!r} does not exist; choose one of {', '.join(known)}")
        if self.top_k < 1:
            raise InputError(f"objective.top_k is {self.top_k}; it must be at least 1")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"objective.temperature is {self.temperature}; it must be above 0 and finite")
        if not 0 < self.beta < 1:
            raise InputError(f"objective.beta is {self.beta}; it must lie between 0 and 1")
        if self.upstream_scores and self.tail != "none":
            raise InputError("objective.upstream_scores works only without a bucket; set objective.tail to none")

    @property
    def needs_every_score(self) -> bool:
        """Whether the loss depends on every token's score. The top-k and a normaliser are then not enough."""
        return self.tail == "bucket" or self.support == "full"

    @property
    def needs_teacher_states(self) -> bool:
        """Whether the log-probabilities that a served teacher returns are not enough."""
        return self.needs_every_score or self.upstream_scores
