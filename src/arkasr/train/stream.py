"""The endless stream of a stage's micro-batches, and the position in it from which a run resumes.

Every optimizer step takes the next micro-batches of one global order. The processes get them in turn. The
data of a step does not depend on the number of processes or on resumes.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from arkasr.data.batches import DurationBatchSampler
from arkasr.data.degradation.sounds import UnreadableSoundError
from arkasr.data.examples import Example, ExampleDataset
from arkasr.data.streams.streamed import StreamedBatches
from arkasr.errors import InputError


@dataclass(frozen=True)
class UnreadableUtterance:
    """An utterance whose audio cannot be read.

    Attributes:
        id: of the utterance.
        reason: one line that names the file and the remedy.
    """

    id: str
    reason: str


_Read = Example | UnreadableUtterance | InputError
_Drawn = tuple[Any, int]  # an index of the dataset, and the epoch in which it is drawn


@dataclass(frozen=True)
class _MicroBatch:
    """A micro-batch as it was read; `next_position` is None unless the micro-batch is the last of its step."""

    examples: list[Example]
    unreadable: list[UnreadableUtterance]
    next_position: Any


class _ErrorsAsValues(Dataset[_Read]):
    """Returns errors instead of raising them: DataLoader wraps an error of a worker in that worker's traceback."""

    def __init__(self, dataset: ExampleDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, drawn: _Drawn) -> _Read:
        index, epoch = drawn
        try:
            utterance = self.dataset.utterances[index]
        except InputError as error:  # the manifest line cannot be read, so the utterance has no id
            return InputError(str(error))
        try:
            return self.dataset.example(index, epoch)
        except UnreadableSoundError as error:
            return InputError(str(error))
        except InputError as error:
            return UnreadableUtterance(utterance.id, str(error))


class _RankBatches(Sampler[list[_Drawn]]):
    """One process's batches, step after step. A batch is empty if the step has none left for this process."""

    def __init__(
        self,
        sampler: DurationBatchSampler | StreamedBatches,
        position: Any,
        batches_per_step: int,
        rank: int,
        world_size: int,
    ) -> None:
        self._global_order: Iterator[tuple[list[Any], Any]] = sampler.batches_from(position)
        self._batches_per_step = batches_per_step
        self._rank = rank
        self._world_size = world_size
        self.positions_after_steps: deque[Any] = deque()

    def __iter__(self) -> Iterator[list[_Drawn]]:
        while True:
            step = list(islice(self._global_order, self._batches_per_step))
            self.positions_after_steps.append(step[-1][1])
            for first in range(0, self._batches_per_step, self._world_size):
                own = step[first + self._rank : first + self._rank + 1]
                yield [(item, reached.epoch) for batch, reached in own for item in batch]


class BatchStream:
    """Duration-bucketed micro-batches, epoch after epoch, without the utterances that cannot be read.

    The position is the start of the first step that was not fully yielded. Workers may have read further.

    Args:
        dataset: utterances with features.
        sampler: forms the batches.
        batches_per_step: batches in an optimizer step, of all processes together.
        rank: of this process.
        world_size: number of processes.
        workers: worker processes that read ahead; 0 = none.
        unreadable: utterances that are already known to be unreadable, and are not in the dataset.
    """

    def __init__(
        self,
        dataset: ExampleDataset,
        sampler: DurationBatchSampler | StreamedBatches,
        *,
        batches_per_step: int = 1,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        unreadable: Sequence[UnreadableUtterance] = (),
    ) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self.position: Any = sampler.position_from_state({})
        self._batches_per_step = batches_per_step
        self._rank = rank
        self._world_size = world_size
        self._workers = workers
        self._unreadable = list(unreadable)

    def __iter__(self) -> Iterator[list[Example]]:
        """This process's micro-batches without end. Every process gets the same number per step; some may be empty.

        Raises:
            InputError: a line of the manifest or a background recording can no longer be read.
        """
        return self._yielded(self._read())

    def read_ahead(
        self, steps: int, on_step_read: Callable[[int, list[list[Example]]], None]
    ) -> Iterator[list[Example]]:
        """Like `iter`, but reads each step's micro-batches some steps before it yields them.

        Args:
            steps: how many steps to hold in memory besides the current one.
            on_step_read: called with the number of the step, from 0, and its micro-batches.

        Raises:
            InputError: a line of the manifest or a background recording can no longer be read.
        """
        return self._yielded(self._read_ahead(steps, on_step_read))

    @property
    def _micro_batches_per_step(self) -> int:
        return -(-self._batches_per_step // self._world_size)

    def _read_ahead(
        self, steps: int, on_step_read: Callable[[int, list[list[Example]]], None]
    ) -> Iterator[_MicroBatch]:
        read = self._read()
        coming: deque[list[_MicroBatch]] = deque()
        for number in count():
            step = list(islice(read, self._micro_batches_per_step))
            on_step_read(number, [batch.examples for batch in step])
            coming.append(step)
            if number >= steps:
                yield from coming.popleft()

    def _yielded(self, batches: Iterator[_MicroBatch]) -> Iterator[list[Example]]:
        for batch in batches:
            self._unreadable += batch.unreadable
            if batch.next_position is not None:
                self.position = batch.next_position
            yield batch.examples

    def _read(self) -> Iterator[_MicroBatch]:
        sampler = _RankBatches(self.sampler, self.position, self._batches_per_step, self._rank, self._world_size)
        loader = DataLoader(
            _ErrorsAsValues(self.dataset),
            batch_sampler=sampler,
            num_workers=self._workers,
            collate_fn=_uncollated,
            # A separate generator: DataLoader would otherwise take its seed from the global one, which dropout uses.
            generator=torch.Generator(),
        )
        for number, read in enumerate(loader, start=1):
            for item in read:
                if isinstance(item, InputError):
                    raise item
            yield _MicroBatch(
                [item for item in read if isinstance(item, Example)],
                [item for item in read if isinstance(item, UnreadableUtterance)],
                sampler.positions_after_steps.popleft() if number % self._micro_batches_per_step == 0 else None,
            )

    @property
    def fingerprint(self) -> str:
        """A checksum of the training set; equal on all processes that read the same set."""
        return self.sampler.fingerprint

    def state(self) -> dict[str, Any]:
        """The position, JSON-able; every process must call this."""
        return self.sampler.state_dict(self.position)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to the position that `state` returned."""
        self.position = self.sampler.position_from_state(state)

    def skip(self, steps: int) -> None:
        """Go to the position after the first `steps` steps.

        Raises:
            InputError: the dataset is streamed. Skipping would read all examples before the position.
        """
        if not isinstance(self.sampler, DurationBatchSampler):
            raise InputError(
                "a streamed dataset cannot be started in the middle: a stage that continues another one must train on "
                "the same dataset; or leave out `continues`"
            )
        self.position = self.sampler.position_after(steps * self._batches_per_step)

    def take_unreadable(self) -> list[UnreadableUtterance]:
        """The unreadable utterances since the last call."""
        taken, self._unreadable = self._unreadable, []
        return taken


def _uncollated(read: list[_Read]) -> list[_Read]:
    return read
