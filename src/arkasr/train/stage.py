"""The interface of a stage: the loss of a micro-batch, and the number of positions that it sums over.

CTC, SFT and OPD implement it. A stage knows nothing of optimizers, files or processes.
"""

from abc import ABC, abstractmethod
from collections import Counter
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
from arkasr.recognizers.tokenizer_check import check_tokenizer
from arkasr.teacher.teacher import Teacher
from arkasr.train.metrics import Metrics, PhaseClock

SILENCE = ""  # an id that no manifest can give an utterance


@dataclass(frozen=True)
class StageLoss:
    """The loss of one micro-batch, not yet normalised.

    Attributes:
        total: scalar with a gradient, summed over `count` positions.
        count: valid tokens or positions, int64 scalar; may be 0.
        metrics: further figures of this micro-batch.
        interrupted: whether a stop was requested while the stage waited for its teacher; the loss is then 0.
    """

    total: Tensor
    count: Tensor
    metrics: Metrics = field(default_factory=Metrics)
    interrupted: bool = False


class Stage(nn.Module, ABC):
    """A trainable model and the loss that it is trained with.

    Attributes:
        student: the recogniser that is trained.
        clock: measures the phases of a step.
        stop_requested: whether the run should stop. A stage that waits for another process calls it regularly.
    """

    def __init__(self, student: Recognizer) -> None:
        super().__init__()
        check_tokenizer(student.tokenizer, "the student")
        self.student = student
        self.model = student.model
        self.clock = PhaseClock()
        self.stop_requested: Callable[[], bool] = lambda: False
        self.clock.watch(student.audio_modules, "encode")

    def forward(self, examples: Sequence[Example], seed: int) -> StageLoss:
        """The loss of a micro-batch.

        Every process must run the same forward pass, because DDP and FSDP exchange tensors in it. A process without
        utterances therefore runs it on silence, with a loss and a count of 0.

        Args:
            examples: the micro-batch; may be empty.
            seed: of augmentation and sampling; a function of the step and of the micro-batch's index in it.
        """
        loss = self.loss(self.nonempty(examples), seed)
        return loss if examples else StageLoss(loss.total * 0.0, loss.count * 0, interrupted=loss.interrupted)

    def nonempty(self, examples: Sequence[Example]) -> Sequence[Example]:
        """The micro-batch, or one silent utterance if it is empty."""
        return examples or [silence(self.recognizers)]

    def unpaired_tokens(self) -> Counter[str]:
        """How often each rollout token had no teacher position, by its text, in this process."""
        return Counter()

    @abstractmethod
    def loss(self, examples: Sequence[Example], seed: int) -> StageLoss:
        """The loss of a micro-batch of at least one utterance."""

    @property
    def recognizers(self) -> list[Recognizer | Teacher]:
        """The models that need features of every utterance."""
        return [self.student]

    @property
    def longest_clip_seconds(self) -> float:
        """The longest clip that all models of the stage take, in seconds."""
        return min(recognizer.longest_clip_seconds for recognizer in self.recognizers)

    @property
    def prefetch_steps(self) -> int:
        """How many steps ahead `prefetch_rollouts` is called; 0 = never."""
        return 0

    def prefetch_rollouts(self, micro_batches: Sequence[tuple[Sequence[Example], int]]) -> None:
        """Start the rollouts of a coming step, with the current weights.

        Args:
            micro_batches: this process's micro-batches of that step, each with its seed.
        """

    def pending_rollouts(self) -> dict[str, Any]:
        """This process's rollouts for coming steps, JSON-able, by micro-batch seed; waits until they are written."""
        return {}

    def take_new_rollouts(self) -> dict[str, Any]:
        """This process's rollouts since the last call, JSON-able, for the other processes."""
        return {}

    def add_rollouts(self, rollouts: Mapping[str, Any]) -> None:
        """Store the result of one process's `take_new_rollouts`."""

    def on_weights_changed(self) -> None:
        """Called after every optimizer update."""

    def on_step_end(self) -> None:
        """Called when a step is complete and will not be repeated."""

    def check_metrics(self, metrics: Metrics) -> str | None:
        """Check the metrics of a step, merged over all processes. Every process must come to the same result.

        Returns:
            A warning for the user, in one line; None = no warning.

        Raises:
            InputError: training must not continue.
        """

    def extra_state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold besides weights, optimizer states and the position in the data."""
        return {}

    def load_extra_state(self, extra_state: Mapping[str, Tensor], pending_rollouts: Mapping[str, Any]) -> None:
        """Restore `extra_state`, and the `pending_rollouts` of this process's micro-batches."""

    def close(self) -> None:
        """Release engines and connections; called once, after training."""


def silence(recognizers: Sequence[Recognizer | Teacher]) -> Example:
    """Half a second of silence, with the features of every recogniser."""
    clip = np.zeros(SAMPLE_RATE // 2, dtype=np.float32)
    utterance = Utterance(Path("silence"), "a", None, None, "English", SILENCE, None, 0.5, {})
    return Example(utterance, {recognizer.frontend: recognizer.features(clip) for recognizer in recognizers})
