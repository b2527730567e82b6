"""What the training loop asks of a stage: the loss of a batch, and how many things it is the sum of.

CTC, SFT and OPD are three answers. A stage knows nothing of optimizers, steps, files or processes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from arkasr.data.examples import Example
from arkasr.model.recognizer import Recognizer
from arkasr.train.metrics import Metrics, PhaseClock


@dataclass(frozen=True)
class StageLoss:
    """The loss of one micro-batch, not yet normalised.

    Attributes:
        total: scalar with a gradient, the sum over `count` things.
        count: tokens or positions that `total` sums over, int64 scalar; 0 is allowed.
        metrics: what else is worth knowing of this micro-batch.
    """

    total: Tensor
    count: Tensor
    metrics: Metrics = field(default_factory=Metrics)


class Stage(nn.Module, ABC):
    """A trainable model together with its answer to "what is the loss of this batch?".

    Attributes:
        student: the recogniser that learns.
        clock: adds up the time of the phases of a step.
    """

    def __init__(self, student: Recognizer) -> None:
        super().__init__()
        self.student = student
        self.model = student.model
        self.clock = PhaseClock()
        self.clock.watch(student.audio_modules, "encode")

    @abstractmethod
    def forward(self, examples: Sequence[Example], seed: int) -> StageLoss:
        """The loss of a micro-batch; `seed` is a function of step and position, for augmentation."""

    def memory(self) -> dict[str, Tensor]:
        """What a resumed run must know besides weights, optimizer and position in the data."""
        return {}

    def close(self) -> None:
        """Give back what the stage holds outside this process; called once training is over."""

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Take back what `memory` gave."""
