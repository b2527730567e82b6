"""The audio of streamed pools in temporary tars, so that it is not in memory and is read like any other."""

import os
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from tempfile import mkstemp


class PoolFiles:
    """The audio of the last pools, each in a tar that is removed when none of its batches can still be read.

    Args:
        folder: for the tars.
        in_flight: batches that may have been handed out and not been read yet.
    """

    def __init__(self, folder: Path, in_flight: int) -> None:
        self._folder = folder
        self._in_flight = in_flight
        self._batches = 0
        self._written: list[tuple[int, Path]] = []

    def count_batch(self) -> None:
        """One more batch is handed out."""
        self._batches += 1

    def write(self, contents: Sequence[bytes]) -> list[Path]:
        """Keep audio; gives where each lies."""
        if self._written:  # all batches of the pool before have now been handed out
            self._written[-1] = (self._batches, self._written[-1][1])
        while self._written and self._written[0][0] + self._in_flight <= self._batches:
            self._written.pop(0)[1].unlink()
        handle, name = mkstemp(suffix=".tar", dir=self._folder)
        places = []
        with os.fdopen(handle, "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
            for number, content in enumerate(contents):
                member = tarfile.TarInfo(str(number))
                member.size = len(content)
                places.append(Path(f"{name}:{tar.offset + tarfile.BLOCKSIZE}:{len(content)}"))
                tar.addfile(member, BytesIO(content))
        self._written.append((self._batches, Path(name)))
        return places
