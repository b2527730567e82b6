"""A stage that goes on where another has ended, as if the two were one: schedule, optimizer and order of the data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.optim import Optimizer

from arkasr.errors import InputError
from arkasr.train.checkpoint import Checkpoints
from arkasr.train.stage import Stage
from arkasr.train.stream import BatchStream


@dataclass(frozen=True)
class Continuation:
    """What a stage goes on from.

    Attributes:
        folder: of the stage that has ended.
        steps: optimizer steps of that stage.
        steps_before: optimizer steps since the schedule began, those of the stage that has ended among them.
        same_set: whether both train on the same set, whose order of batches then goes on where it was.
    """

    folder: Path
    steps: int
    steps_before: int
    same_set: bool

    def begin(
        self, stage: Stage, optimizers: Sequence[Optimizer], stream: BatchStream, on_trouble: Callable[[str], None]
    ) -> dict[str, object]:
        """Take optimizer states, random state and position in the data from the last checkpoint of the other stage.

        On another set the first batch is the one that a stage would hear at this step which had trained on that set
        from the schedule's beginning.

        Returns:
            The state that was saved with it.

        Raises:
            InputError: the last checkpoint is not there.
        """
        ended = Checkpoints(self.folder / "checkpoints", stage, optimizers, keep=1)
        restored = ended.restore(on_trouble)
        if restored is None or restored[0]["step"] != self.steps:
            raise InputError(
                f"{self.folder}: its last checkpoint, step-{self.steps}, is gone or damaged, and the next stage goes "
                "on from it; remove the folder to train the stage anew, or leave out `continues`"
            )
        state, memory = restored
        if memory and stage.memory():
            stage.remember(memory, {})
        if self.same_set:
            stream.restore(state["data"])
        else:
            stream.skip(self.steps_before)
        return state
