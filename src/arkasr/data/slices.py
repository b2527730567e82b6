"""Audio that is a part of another file: `shards/000.tar:1536:48234` is 48,234 bytes of a tar from byte 1,536 on.

The notation is that of fairseq's manifests. A member of an uncompressed tar lies in it as it is, so that any one can be
read without the others. Knows nothing of what the bytes mean.
"""

import os
import re
from dataclasses import dataclass
from io import BufferedReader, BytesIO, RawIOBase
from pathlib import Path
from typing import Any, BinaryIO

_SLICE = re.compile(r"(?P<file>.+\.tar):(?P<offset>\d+):(?P<size>\d+)", re.DOTALL)
# As much as a clip that a model hears at once takes up in the widest format; what is larger is read where it lies.
IN_MEMORY_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Slice:
    """Bytes of a file.

    Attributes:
        file: that holds them.
        offset: of the first, counted from 0.
        size: how many.
    """

    file: Path
    offset: int
    size: int

    def open(self) -> BinaryIO:
        """A file of the bytes; fewer where the file ends before them. In memory, unless there are very many.

        Raises:
            OSError: the file cannot be read.
        """
        if self.size > IN_MEMORY_BYTES:
            return BufferedReader(_Window(self))
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return BytesIO(file.read(self.size))


class _Window(RawIOBase):
    """A slice as a file of its own."""

    def __init__(self, part: Slice) -> None:
        self._part = part
        self._file = part.file.open("rb", buffering=0)
        self._size = min(part.size, max(os.fstat(self._file.fileno()).st_size - part.offset, 0))
        self.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._size}[whence]
        return self._file.seek(self._part.offset + base + offset) - self._part.offset

    def tell(self) -> int:
        return self._file.tell() - self._part.offset

    def readinto(self, buffer: Any) -> int | None:
        left = max(self._size - self.tell(), 0)
        return self._file.readinto(memoryview(buffer)[:left])

    def close(self) -> None:
        self._file.close()
        super().close()


def slice_of(path: str | Path) -> Slice | None:
    """The part of a file that a path means; None where it means a whole file."""
    found = _SLICE.fullmatch(str(path))
    return Slice(Path(found["file"]), int(found["offset"]), int(found["size"])) if found else None


def file_of(path: Path) -> Path:
    """The file on the disk that a path means, or means a part of."""
    part = slice_of(path)
    return part.file if part else path


def missing_of(path: Path) -> str | None:
    """Why there is nothing to read at a path, with the remedy; None if there is."""
    part = slice_of(path)
    file = part.file if part else path
    try:
        there = file.is_file()
    except OSError:  # a name that is too long, a folder that may not be entered
        there = False
    if not there:
        return "no such file; paths are relative to the manifest's folder"
    if part and file.stat().st_size < part.offset + part.size:
        return (
            f"{file.name} is shorter; replace it if it is cut off, else write the manifest anew (`arkasr data shards`)"
        )
    return None
