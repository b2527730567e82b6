"""Temporary tars with the audio of streamed pools. The audio stays out of memory and is read like any other slice."""

import itertools
import tarfile
from collections import deque
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from arkasr.files import errors_named
from arkasr.scratch import scratch_folder


class PoolFiles:
    """The tars of one lane's pools (`streamed.py`). A tar is removed once all its batches have been read.

    One thread may write a tar while another yields batches.

    Args:
        in_flight: batches that may have been yielded but not read yet.
    """

    def __init__(self, in_flight: int) -> None:
        self._folder = TemporaryDirectory(dir=scratch_folder())
        self._numbers = itertools.count()
        self._in_flight = in_flight
        self._batches = 0
        self._finished: deque[tuple[int, Path]] = deque()

    def new_path(self) -> Path:
        """Path of the next tar."""
        return Path(self._folder.name) / f"{next(self._numbers)}.tar"

    def count_batch(self) -> None:
        """Count a batch that is about to be yielded; remove tars that are no longer needed."""
        while self._finished and self._finished[0][0] + self._in_flight <= self._batches:
            self._finished.popleft()[1].unlink()
        self._batches += 1

    def finish(self, tar: Path) -> None:
        """Mark a tar whose batches have all been yielded."""
        self._finished.append((self._batches, tar))


def add_audio(tar: tarfile.TarFile, path: Path, content: bytes) -> Path:
    """Append the bytes of an audio file to a tar that is open at `path`; returns their slice.

    Raises:
        OSError: the disk is full; the message names the tar.
    """
    member = tarfile.TarInfo("audio")
    member.size = len(content)
    audio = Path(f"{path}:{tar.offset + tarfile.BLOCKSIZE}:{len(content)}")
    with errors_named(path):
        tar.addfile(member, BytesIO(content))
    return audio
