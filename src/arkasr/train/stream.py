"""The endless stream of micro-batches of a stage, and the position in it that a resumed run starts from."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset

from arkasr.data.batches import DurationBatchSampler
from arkasr.data.examples import Example, ExampleDataset
from arkasr.errors import InputError


class _Guarded(Dataset[Example | InputError]):
    """Hands an error over as a value: raised in a worker process it would arrive wrapped in that worker's traceback."""

    def __init__(self, dataset: ExampleDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Example | InputError:
        try:
            return self.dataset[index]
        except InputError as error:
            return InputError(str(error))


def _as_list(examples: list[Example | InputError]) -> list[Example | InputError]:
    return examples


class BatchStream:
    """Epoch after epoch of duration-bucketed batches.

    The position counts batches that were handed out, not those that workers have read ahead.

    Args:
        dataset: utterances with features.
        sampler: forms the batches of an epoch.
        workers: processes that read ahead; 0 = none.
    """

    def __init__(self, dataset: ExampleDataset, sampler: DurationBatchSampler, workers: int = 0) -> None:
        self.sampler = sampler
        self.epoch = 0
        self.batch = 0
        self._loader = DataLoader(
            _Guarded(dataset),
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=_as_list,
            persistent_workers=workers > 0,
            # Its own, so that starting an epoch draws nothing from the generator of dropout.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[list[Example]]:
        """Batches without end.

        Raises:
            InputError: an utterance cannot be heard; names the file.
        """
        while True:
            self.sampler.load_state_dict({"epoch": self.epoch, "next_batch": self.batch})
            for examples in self._loader:
                for example in examples:
                    if isinstance(example, InputError):
                        raise example
                self.batch += 1
                yield examples
            self.epoch, self.batch = self.epoch + 1, 0

    def state(self) -> dict[str, int]:
        """Position of the next batch."""
        return {"epoch": self.epoch, "batch": self.batch}

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a position that `state` gave."""
        self.epoch, self.batch = state["epoch"], state["batch"]
