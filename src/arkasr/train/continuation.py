"""A stage that continues another one as if both were one: same schedule, optimizer state and order of the data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.optim import Optimizer

from arkasr.errors import InputError
from arkasr.train.checkpoint import Checkpoints
from arkasr.train.stage import Stage
from arkasr.train.stream import BatchStream
from arkasr.train.training_state import TrainingState


@dataclass(frozen=True)
class Continuation:
    """The finished stage that another stage continues.

    Attributes:
        folder: of the finished stage.
        steps: optimizer steps of the finished stage.
        steps_before: optimizer steps since the schedule began, including those of the finished stage.
        same_set: whether both stages train on the same set, so that its order of batches continues.
    """

    folder: Path
    steps: int
    steps_before: int
    same_set: bool

    def restore(
        self, stage: Stage, optimizers: Sequence[Optimizer], stream: BatchStream, on_warning: Callable[[str], None]
    ) -> TrainingState:
        """Load optimizer states, random state and data position from the last checkpoint of the finished stage.

        If the sets differ, the stream skips the batches of `steps_before` steps, as if these steps had used the new
        set.

        Returns:
            The state of the finished stage.

        Raises:
            InputError: the last checkpoint is missing or damaged.
        """
        checkpoints = Checkpoints(self.folder / "checkpoints", stage, optimizers, keep=1)
        restored = checkpoints.restore(on_warning)
        if restored is None or restored[0].step != self.steps:
            raise InputError(
                f"{self.folder}: its last checkpoint, step-{self.steps}, is missing or damaged, and the next stage "
                "continues from it; remove the folder to train the stage again, or leave out `continues`"
            )
        state, extra_state = restored
        if extra_state and stage.extra_state():
            stage.load_extra_state(extra_state, {})
        if self.same_set:
            stream.restore(state.data)
        else:
            stream.skip(self.steps_before)
        return state
