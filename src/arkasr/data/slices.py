"""Parts of tars as paths: `shards/000.tar:1536:48234` is 48,234 bytes of a tar, starting at byte 1,536.

The notation is that of fairseq's manifests. An uncompressed tar stores its members unchanged, so each can be read
alone. The content of the bytes is left to others.
"""

import os
import re
from dataclasses import dataclass
from io import BufferedReader, BytesIO, RawIOBase
from pathlib import Path
from typing import Any, BinaryIO

from arkasr.errors import InputError

_SLICE = re.compile(r"(?P<file>.+\.tar):(?P<offset>\d+):(?P<size>\d+)", re.DOTALL)
# 30 s of stereo float32 at 48 kHz are 11.5 MB. Larger slices are read from the file as needed.
IN_MEMORY_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive bytes of a file.

    Attributes:
        file: the containing file.
        offset: of the first byte, counted from 0.
        size: in bytes.
    """

    file: Path
    offset: int
    size: int

    def open(self) -> BinaryIO:
        """The bytes as a binary file, in memory up to `IN_MEMORY_BYTES`; shorter if the containing file ends early.

        Raises:
            OSError: the file cannot be read.
        """
        if self.size > IN_MEMORY_BYTES:
            return BufferedReader(_SliceFile(self))
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return BytesIO(file.read(self.size))


class _SliceFile(RawIOBase):
    """A slice as a binary file that reads from the containing file."""

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


def version_of(path: Path) -> str:
    """Path, size and time of the last change of a file, or of the file that contains a slice.

    Raises:
        InputError: the file does not exist.
    """
    try:
        stat = containing_file(path).stat()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    return f"{path.absolute()}:{stat.st_size}:{stat.st_mtime_ns}"


def parse_slice(path: str | Path) -> Slice | None:
    """The slice that a path refers to; None if it refers to a whole file."""
    match = _SLICE.fullmatch(str(path))
    return Slice(Path(match["file"]), int(match["offset"]), int(match["size"])) if match else None


def containing_file(path: Path) -> Path:
    """The file on the disk that a path refers to, whole or in part."""
    part = parse_slice(path)
    return part.file if part else path


def why_missing(path: Path) -> str | None:
    """Why a path, whole file or slice, cannot be read, with the remedy; None if it exists."""
    part = parse_slice(path)
    file = part.file if part else path
    try:
        exists = file.is_file()
    except OSError:  # a name that is too long, a folder without permission
        exists = False
    if not exists:
        return "no such file; paths are relative to the manifest's folder"
    if part and file.stat().st_size < part.offset + part.size:
        return f"{file.name} ends before it; replace the tar if it is truncated, else run `arkasr data shards` again"
    return None
