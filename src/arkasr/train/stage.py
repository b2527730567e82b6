"""What the training loop asks of a stage: the loss of a batch, and how many things it is the sum of.

CTC, SFT and OPD are three answers. A stage knows nothing of optimizers, steps, files or processes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from arkasr.data.audio import SAMPLE_RATE
from arkasr.data.examples import Example
from arkasr.data.manifests.manifest import Utterance
from arkasr.recognizers.recognizer import Recognizer
from arkasr.teacher.teacher import Teacher
from arkasr.train.metrics import Metrics, PhaseClock

SILENCE = ""  # an id that no manifest can give an utterance


@dataclass(frozen=True)
class StageLoss:
    """The loss of one micro-batch, not yet normalised.

    Attributes:
        total: scalar with a gradient, the sum over `count` things.
        count: tokens or positions that `total` sums over, int64 scalar; 0 is allowed.
        metrics: what else is worth knowing of this micro-batch.
        given_up: the loss is none, since the run is asked to stop and would have had to wait for it.
    """

    total: Tensor
    count: Tensor
    metrics: Metrics = field(default_factory=Metrics)
    given_up: bool = False


class Stage(nn.Module, ABC):
    """A trainable model together with its answer to "what is the loss of this batch?".

    Attributes:
        student: the recogniser that learns.
        clock: adds up the time of the phases of a step.
        stop_asked: whether the run is asked to stop; whoever waits for something outside this process looks.
    """

    def __init__(self, student: Recognizer) -> None:
        super().__init__()
        self.student = student
        self.model = student.model
        self.clock = PhaseClock()
        self.stop_asked: Callable[[], bool] = lambda: False
        self.clock.watch(student.audio_modules, "encode")

    def forward(self, examples: Sequence[Example], seed: int) -> StageLoss:
        """The loss of a micro-batch; `seed` is a function of step and position, for augmentation.

        Where processes exchange weights and gradients each must pass through the model alike: one without an utterance
        hears a silent one, which counts for nothing.
        """
        loss = self.loss(self.filled(examples), seed)
        return loss if examples else StageLoss(loss.total * 0.0, loss.count * 0, given_up=loss.given_up)

    def filled(self, examples: Sequence[Example]) -> Sequence[Example]:
        """A micro-batch of at least one utterance, be it a silent one."""
        return examples or [silence(self.recognizers)]

    @abstractmethod
    def loss(self, examples: Sequence[Example], seed: int) -> StageLoss:
        """The loss of a micro-batch of at least one utterance."""

    @property
    def recognizers(self) -> list[Recognizer | Teacher]:
        """Those that hear an utterance."""
        return [self.student]

    @property
    def steps_ahead(self) -> int:
        """How many steps before its loss is asked for the stage wants to be told of a micro-batch."""
        return 0

    def announce(self, micro_batches: Sequence[tuple[Sequence[Example], int]]) -> None:
        """Begin what can be begun of a coming step, told as this process's micro-batches, each with its seed."""

    def under_way(self) -> dict[str, Any]:
        """What has been begun of steps to come, JSON-able, of this process; waits for it."""
        return {}

    def step_done(self) -> None:
        """Learn that the step at hand is taken, and will not be taken again."""

    def memory(self) -> dict[str, Tensor]:
        """What a resumed run must know besides weights, optimizer and position in the data."""
        return {}

    def close(self) -> None:
        """Give back what the stage holds outside this process; called once training is over."""

    def remember(self, memory: Mapping[str, Tensor], under_way: Mapping[str, Any]) -> None:
        """Take back what `memory` gave, and what `under_way` gave of this process's micro-batches."""

    def updated(self) -> None:
        """Learn that an optimizer has changed the weights."""

    def judge(self, step: Metrics) -> str | None:
        """Look at the figures of a step, those of all processes together, and so with the same verdict on each.

        Returns:
            What the user should know now, in a line.

        Raises:
            InputError: the stage is not to go on like this.
        """

    def take_news(self) -> dict[str, Any]:
        """What has come into the memory since this was last asked, JSON-able, for the other processes."""
        return {}

    def learn_news(self, news: Mapping[str, Any]) -> None:
        """Take into the memory what a process told with `take_news`."""


def silence(recognizers: Sequence[Recognizer | Teacher]) -> Example:
    """Half a second in which nothing is said, for recognisers that must hear something."""
    clip = np.zeros(SAMPLE_RATE // 2, dtype=np.float32)
    utterance = Utterance(Path("silence"), "a", None, None, "English", SILENCE, None, 0.5, {})
    return Example(utterance, {recognizer.frontend: recognizer.features(clip) for recognizer in recognizers})
