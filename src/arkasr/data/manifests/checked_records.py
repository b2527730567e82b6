"""Records of one size in a file with checksums, read piece by piece.

The file holds the records, a checksum of each block of records, and a footer with a checksum of the checksums. A block
is verified when it is first read, so that a file opens fast however many records it holds. The meaning of the
records is left to others.
"""

import os
from pathlib import Path
from typing import IO
from zlib import crc32

import numpy as np

BLOCK = 1_024  # records per checksum
_CHECKSUM = np.dtype("<u4")
_FOOTER = np.dtype([("records", "<u8"), ("checksum", "<u4")])


class DamagedError(ValueError):
    """The file does not hold what was written."""


class CheckedRecords:
    """A file that `seal` has completed. May be used in forked processes.

    Args:
        path: the file.
        dtype: of a record.

    Raises:
        DamagedError: it is another kind of file, incomplete, or its checksums are damaged.
    """

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self._dtype = dtype
        self._file = path.open("rb")
        size = os.fstat(self._file.fileno()).st_size
        footer = self._pread(_FOOTER.itemsize, max(size - _FOOTER.itemsize, 0))
        if len(footer) < _FOOTER.itemsize:
            raise DamagedError(f"{path}: is cut off")
        self._count, expected = np.frombuffer(footer, dtype=_FOOTER)[0].tolist()
        blocks = -(-self._count // BLOCK)
        if size != self._count * dtype.itemsize + blocks * _CHECKSUM.itemsize + _FOOTER.itemsize:
            raise DamagedError(f"{path}: is cut off, or holds other records")
        checksums = self._pread(blocks * _CHECKSUM.itemsize, self._count * dtype.itemsize)
        if crc32(checksums) != expected:
            raise DamagedError(f"{path}: its checksums are damaged")
        self._path = path
        self._checksums = np.frombuffer(checksums, dtype=_CHECKSUM)
        self._checked = np.zeros(blocks, dtype=bool)

    def __len__(self) -> int:
        return self._count

    def __call__(self, first: int, last: int) -> np.ndarray:
        """The records `[last - first]` from `first` to before `last`.

        Raises:
            DamagedError: the checksum of their block differs.
        """
        begin, end = first // BLOCK, -(-last // BLOCK)
        for block in np.flatnonzero(~self._checked[begin:end]).tolist():
            self._check(begin + block)
        size = self._dtype.itemsize
        return np.frombuffer(self._pread((last - first) * size, first * size), dtype=self._dtype)

    def _check(self, block: int) -> None:
        first, last = block * BLOCK, min((block + 1) * BLOCK, self._count)
        size = self._dtype.itemsize
        if crc32(self._pread((last - first) * size, first * size)) != self._checksums[block]:
            raise DamagedError(f"{self._path}: records {first} to {last - 1} are damaged")
        self._checked[block] = True

    def _pread(self, size: int, offset: int) -> bytes:
        return os.pread(self._file.fileno(), size, offset)


def seal(file: IO[bytes], dtype: np.dtype) -> None:
    """Append checksums and footer to a file of records, open for reading and writing, and flush it to the disk."""
    count = file.seek(0, os.SEEK_END) // dtype.itemsize
    file.seek(0)
    blocks = -(-count // BLOCK)
    checksums = np.array([crc32(file.read(BLOCK * dtype.itemsize)) for _ in range(blocks)], dtype=_CHECKSUM).tobytes()
    file.write(checksums)
    file.write(np.array((count, crc32(checksums)), dtype=_FOOTER).tobytes())
    file.flush()
    os.fsync(file.fileno())
