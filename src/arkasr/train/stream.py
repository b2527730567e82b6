"""The endless stream of micro-batches of a stage, and the position in it that a resumed run starts from.

Every optimizer step takes the next so many batches of one global order, dealt out to the processes in turn: who trains
on how many processes, and how often a run was resumed, changes nothing in what a step hears.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from arkasr.data.batches import DurationBatchSampler
from arkasr.data.examples import Example, ExampleDataset
from arkasr.data.streams.streamed import StreamedBatches
from arkasr.errors import InputError


@dataclass(frozen=True)
class UnreadableUtterance:
    """An utterance that could not be heard.

    Attributes:
        id: of the utterance.
        reason: names the file and says what to do.
    """

    id: str
    reason: str


@dataclass(frozen=True)
class _Read:
    """A micro-batch before it is handed out; `next_position` where it is a step's last, None elsewhere."""

    examples: list[Example]
    unreadable: list[UnreadableUtterance]
    next_position: Any


class _Guarded(Dataset[Example | UnreadableUtterance | InputError]):
    """Hands an error over as a value: raised in a worker process it would arrive wrapped in that worker's traceback."""

    def __init__(self, dataset: ExampleDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: Any) -> Example | UnreadableUtterance | InputError:
        try:
            utterance = self.dataset.utterances[index]
        except InputError as error:  # its line cannot be read, and so nothing is known of it
            return InputError(str(error))
        try:
            return self.dataset[index]
        except InputError as error:
            return UnreadableUtterance(utterance.id, str(error))


def _as_list(
    found: list[Example | UnreadableUtterance | InputError],
) -> list[Example | UnreadableUtterance | InputError]:
    return found


class _Share(Sampler[list[Any]]):
    """One process's batches, step after step; an empty one where a step has none left for it."""

    def __init__(
        self,
        sampler: DurationBatchSampler | StreamedBatches,
        position: Any,
        per_step: int,
        rank: int,
        processes: int,
    ) -> None:
        self._followed: Iterator[tuple[list[Any], Any]] = sampler.batches_from(position)
        self._per_step = per_step
        self._rank = rank
        self._processes = processes
        self.positions: deque[Any] = deque()

    def __iter__(self) -> Iterator[list[Any]]:
        while True:
            step = list(islice(self._followed, self._per_step))
            self.positions.append(step[-1][1])
            for first in range(0, self._per_step, self._processes):
                place = first + self._rank
                yield step[place][0] if place < self._per_step else []


class BatchStream:
    """Epoch after epoch of duration-bucketed batches, without the utterances that cannot be heard.

    The position counts steps that were handed out whole, not what workers have read ahead.

    Args:
        dataset: utterances with features.
        sampler: forms the batches.
        per_step: batches in an optimizer step, of all processes together.
        rank: this process.
        processes: among how many.
        workers: processes that read ahead; 0 = none.
        unreadable: utterances that are known not to be heard, and are not in the dataset.
    """

    def __init__(
        self,
        dataset: ExampleDataset,
        sampler: DurationBatchSampler | StreamedBatches,
        *,
        per_step: int = 1,
        rank: int = 0,
        processes: int = 1,
        workers: int = 0,
        unreadable: Sequence[UnreadableUtterance] = (),
    ) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self.position: Any = sampler.position_from_state({})
        self._per_step = per_step
        self._rank = rank
        self._processes = processes
        self._workers = workers
        self._unreadable = list(unreadable)

    def __iter__(self) -> Iterator[list[Example]]:
        """This process's batches without end; in every step each process has as many, some of them empty.

        Raises:
            InputError: a line of the manifest cannot be read any more.
        """
        return self._handed_out(self._read())

    def ahead(self, steps: int, announce: Callable[[int, list[list[Example]]], None]) -> Iterator[list[Example]]:
        """As `iter`, each step's batches announced so many steps before the first of them is handed out.

        Args:
            steps: how many are held in memory besides the one that is handed out.
            announce: called with the number of a step, from 0, and its batches.

        Raises:
            InputError: a line of the manifest cannot be read any more.
        """
        return self._handed_out(self._announced(steps, announce))

    @property
    def _rounds(self) -> int:
        return -(-self._per_step // self._processes)

    def _announced(self, steps: int, announce: Callable[[int, list[list[Example]]], None]) -> Iterator[_Read]:
        read = self._read()
        coming: deque[list[_Read]] = deque()
        for number in count():
            step = list(islice(read, self._rounds))
            announce(number, [batch.examples for batch in step])
            coming.append(step)
            if number >= steps:
                yield from coming.popleft()

    def _handed_out(self, batches: Iterator[_Read]) -> Iterator[list[Example]]:
        for batch in batches:
            self._unreadable += batch.unreadable
            if batch.next_position is not None:
                self.position = batch.next_position
            yield batch.examples

    def _read(self) -> Iterator[_Read]:
        share = _Share(self.sampler, self.position, self._per_step, self._rank, self._processes)
        loader = DataLoader(
            _Guarded(self.dataset),
            batch_sampler=share,
            num_workers=self._workers,
            collate_fn=_as_list,
            # Its own, so that starting draws nothing from the generator of dropout.
            generator=torch.Generator(),
        )
        for number, found in enumerate(loader, start=1):
            for item in found:
                if isinstance(item, InputError):
                    raise item
            yield _Read(
                [item for item in found if isinstance(item, Example)],
                [item for item in found if isinstance(item, UnreadableUtterance)],
                share.positions.popleft() if number % self._rounds == 0 else None,
            )

    @property
    def fingerprint(self) -> str:
        """The same on every process that hears the same set."""
        return self.sampler.fingerprint

    def state(self) -> dict[str, Any]:
        """Where the next step begins, JSON-able; every process must ask."""
        return self.sampler.state_dict(self.position)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` said."""
        self.position = self.sampler.position_from_state(state)

    def skip(self, steps: int) -> None:
        """Go to where the stream stands behind so many steps from its beginning.

        Raises:
            InputError: the dataset is streamed, and what lies before would have to be read.
        """
        if not isinstance(self.sampler, DurationBatchSampler):
            raise InputError(
                "a streamed dataset cannot be begun in its middle: a stage that continues another one on it must train "
                "on the same dataset; or leave out `continues`"
            )
        self.position = self.sampler.position_after(steps * self._per_step)

    def take_unreadable(self) -> list[UnreadableUtterance]:
        """The utterances that could not be heard since this was last asked."""
        taken, self._unreadable = self._unreadable, []
        return taken
