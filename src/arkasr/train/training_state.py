"""The progress of a stage, and its form in the `state.json` of a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class TrainingState:
    """The progress of a stage. All values are JSON-able.

    Attributes:
        step: completed optimizer steps of the stage.
        data_seed: seed of the order of the data; None in a checkpoint of an older version, which ordered the data
            differently.
        data: position in the data.
        skipped_in_a_row: how many of the newest steps in a row were skipped because they were not finite.
        unevaluated_metrics: metrics of `step`, if a stop was requested before its evaluation; else None.
        scaler: state of the gradient scaler; None without one.
        pending_rollouts: prefetched rollouts of all processes, by micro-batch seed; None without prefetching.
    """

    step: int = 0
    data_seed: int | None = None
    data: dict[str, Any] = field(default_factory=dict)
    skipped_in_a_row: int = 0
    unevaluated_metrics: dict[str, float] | None = None
    scaler: dict[str, Any] | None = None
    pending_rollouts: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The document of a checkpoint, without the random states."""
        optional = {
            "not_evaluated": self.unevaluated_metrics,
            "scaler": self.scaler,
            "under_way": self.pending_rollouts,
        }
        return {
            "step": self.step,
            "skipped_in_a_row": self.skipped_in_a_row,
            **{key: value for key, value in optional.items() if value is not None},
            "order": self.data_seed,
            "data": self.data,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "TrainingState":
        """The inverse of `to_json`."""
        return cls(
            step=document["step"],
            data_seed=document.get("order"),
            data=document["data"],
            skipped_in_a_row=document["skipped_in_a_row"],
            unevaluated_metrics=document.get("not_evaluated"),
            scaler=document.get("scaler"),
            pending_rollouts=document.get("under_way"),
        )
