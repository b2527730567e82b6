"""Work over many utterances that survives a kill: it is split into parts, and a finished part is a file.

The ranks share the missing parts, so a resumed run may have another number of processes. The caller decides what is
done to an utterance.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from arkasr import processes
from arkasr.data.manifests.manifest import Utterance, read_rows, write_manifest
from arkasr.errors import InputError

MAX_PART_UTTERANCES = 1024

Row = dict[str, Any]


class ResumableWork:
    """The finished parts of one piece of work.

    Args:
        folder: holds one file for each finished part.
        utterances: all utterances of the work, in order.
    """

    def __init__(self, folder: Path, utterances: Sequence[Utterance]) -> None:
        self.folder = folder
        self.utterances = utterances

    def missing(self) -> list[range]:
        """The parts that this rank still has to do, as ranges of indices into `utterances`."""
        done = processes.broadcast_from_first(lambda: [[part.start, part.stop] for part in self._finished()])
        size = min(MAX_PART_UTTERANCES, -(-len(self.utterances) // processes.world_size()))
        missing = []
        first = 0
        for start, stop in [*done, [len(self.utterances)] * 2]:
            missing += [range(index, min(index + size, start)) for index in range(first, start, size)]
            first = stop
        return missing[processes.rank() :: processes.world_size()]

    def do(self, part: range, work: Callable[[Sequence[Utterance]], list[Row]]) -> None:
        """Do one part and write its rows."""
        rows = work(self.utterances[part.start : part.stop])
        write_manifest(self.folder / f"{part.start}-{part.stop}.jsonl", rows)

    def rows(self) -> Iterator[Row]:
        """The rows of all parts in the order of the utterances.

        Raises:
            InputError: a part is missing.
        """
        end = 0
        for part in [*self._finished(), range(len(self.utterances), len(self.utterances))]:
            if part.start != end:
                raise InputError(
                    f"{self.folder}: utterances {end} to {part.start} are missing; put the run's folder where all "
                    "processes can see it, and use --resume to do the missing parts"
                )
            end = part.stop
            if len(part):
                yield from read_rows(self.folder / f"{part.start}-{part.stop}.jsonl")

    def remove(self) -> None:
        """Remove the parts once their rows are written elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _finished(self) -> list[range]:
        names = [path.stem.split("-") for path in self.folder.glob("*-*.jsonl") if not path.name.startswith(".")]
        return sorted((range(int(start), int(stop)) for start, stop in names), key=lambda part: part.start)
