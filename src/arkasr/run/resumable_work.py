"""Long work over many utterances in parts: a part is a file when it is done, and the processes share the parts.

A killed run, or one that goes on with another number of processes, does only what is missing. Knows nothing of what is
done to an utterance.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from arkasr import processes
from arkasr.data.manifests.manifest import Utterance, read_rows, write_manifest
from arkasr.errors import InputError

MOST_UTTERANCES = 1024

Row = dict[str, Any]


class ResumableWork:
    """The finished parts of one piece of work.

    Args:
        folder: holds a file for each.
        utterances: of the whole work, in order.
    """

    def __init__(self, folder: Path, utterances: Sequence[Utterance]) -> None:
        self.folder = folder
        self.utterances = utterances

    def missing(self) -> list[range]:
        """This process's share of what is not done yet, as ranges of places in `utterances`."""
        done = processes.broadcast_from_first(lambda: [[part.start, part.stop] for part in self._finished()])
        size = min(MOST_UTTERANCES, -(-len(self.utterances) // processes.world_size()))
        missing = []
        first = 0
        for start, stop in [*done, [len(self.utterances)] * 2]:
            missing += [range(place, min(place + size, start)) for place in range(first, start, size)]
            first = stop
        return missing[processes.rank() :: processes.world_size()]

    def do(self, part: range, work: Callable[[Sequence[Utterance]], list[Row]]) -> None:
        """Do one part; its rows are in a file when this returns."""
        rows = work(self.utterances[part.start : part.stop])
        write_manifest(self.folder / f"{part.start}-{part.stop}.jsonl", rows)

    def rows(self) -> Iterator[Row]:
        """The rows of all parts in the order of the utterances.

        Raises:
            InputError: a part is not there.
        """
        reached = 0
        for part in [*self._finished(), range(len(self.utterances), len(self.utterances))]:
            if part.start != reached:
                raise InputError(
                    f"{self.folder}: utterances {reached} to {part.start} are missing; all processes must see the "
                    "run's folder, and --resume does what is missing"
                )
            reached = part.stop
            if len(part):
                yield from read_rows(self.folder / f"{part.start}-{part.stop}.jsonl")

    def remove(self) -> None:
        """Forget the parts, when what was made of them is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _finished(self) -> list[range]:
        names = [path.stem.split("-") for path in self.folder.glob("*-*.jsonl") if not path.name.startswith(".")]
        return sorted((range(int(start), int(stop)) for start, stop in names), key=lambda part: part.start)
