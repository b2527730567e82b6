"""The audio of streamed pools in temporary tars, so that it is not in memory and is read like any other."""

import itertools
import tarfile
from collections import deque
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from arkasr.files import errors_named
from arkasr.scratch import scratch_folder


class PoolFiles:
    """The tars of the pools of a lane, each removed when none of its batches can still be read.

    A tar may be written in another thread than the one that hands out batches.

    Args:
        in_flight: batches that may have been handed out and not been read yet.
    """

    def __init__(self, in_flight: int) -> None:
        self._folder = TemporaryDirectory(dir=scratch_folder())
        self._numbers = itertools.count()
        self._in_flight = in_flight
        self._batches = 0
        self._used: deque[tuple[int, Path]] = deque()

    def new(self) -> Path:
        """Where the next tar is to be written."""
        return Path(self._folder.name) / f"{next(self._numbers)}.tar"

    def count_batch(self) -> None:
        """One more batch is handed out."""
        while self._used and self._used[0][0] + self._in_flight <= self._batches:
            self._used.popleft()[1].unlink()
        self._batches += 1

    def used(self, tar: Path) -> None:
        """All batches of a tar have been handed out."""
        self._used.append((self._batches, tar))


def add_audio(tar: tarfile.TarFile, path: Path, content: bytes) -> Path:
    """Write the bytes of an audio file into a tar that is open at `path`; gives where they lie.

    Raises:
        OSError: there is no space; names the tar.
    """
    member = tarfile.TarInfo("audio")
    member.size = len(content)
    place = Path(f"{path}:{tar.offset + tarfile.BLOCKSIZE}:{len(content)}")
    with errors_named(path):
        tar.addfile(member, BytesIO(content))
    return place
