"""Records of one size in a file that is read piece by piece and says when it is damaged.

Behind the records stands a checksum of each block of them, and behind these a footer with their own. A block is checked
when it is first read, so that opening takes no longer for more records. Knows nothing of what the records mean.
"""

import os
from pathlib import Path
from typing import IO
from zlib import crc32

import numpy as np

BLOCK = 1_024  # records with a checksum of their own
_SUM = np.dtype("<u4")
_FOOTER = np.dtype([("records", "<u8"), ("sums", "<u4")])


class DamagedError(ValueError):
    """What is in the file is not what was written."""


class CheckedRecords:
    """A file of records that `seal` has completed; may be used in forked processes.

    Args:
        path: the file.
        dtype: of a record.

    Raises:
        DamagedError: it is not such a file, not whole, or its checksums are damaged.
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
        if size != self._count * dtype.itemsize + blocks * _SUM.itemsize + _FOOTER.itemsize:
            raise DamagedError(f"{path}: is cut off, or holds other records")
        sums = self._pread(blocks * _SUM.itemsize, self._count * dtype.itemsize)
        if crc32(sums) != expected:
            raise DamagedError(f"{path}: its checksums are damaged")
        self._path = path
        self._sums = np.frombuffer(sums, dtype=_SUM)
        self._checked = np.zeros(blocks, dtype=bool)

    def __len__(self) -> int:
        return self._count

    def __call__(self, first: int, last: int) -> np.ndarray:
        """The records `[last - first]` from `first` to before `last`.

        Raises:
            DamagedError: some of them are not what was written.
        """
        begin, end = first // BLOCK, -(-last // BLOCK)
        for block in np.flatnonzero(~self._checked[begin:end]).tolist():
            self._check(begin + block)
        size = self._dtype.itemsize
        return np.frombuffer(self._pread((last - first) * size, first * size), dtype=self._dtype)

    def _check(self, block: int) -> None:
        first, last = block * BLOCK, min((block + 1) * BLOCK, self._count)
        size = self._dtype.itemsize
        if crc32(self._pread((last - first) * size, first * size)) != self._sums[block]:
            raise DamagedError(f"{self._path}: records {first} to {last - 1} are damaged")
        self._checked[block] = True

    def _pread(self, size: int, offset: int) -> bytes:
        return os.pread(self._file.fileno(), size, offset)


def seal(file: IO[bytes], dtype: np.dtype) -> None:
    """Complete a file that was opened for reading and writing and holds only records, and see it to the disk."""
    count = file.seek(0, os.SEEK_END) // dtype.itemsize
    file.seek(0)
    sums = np.array([crc32(file.read(BLOCK * dtype.itemsize)) for _ in range(-(-count // BLOCK))], dtype=_SUM).tobytes()
    file.write(sums)
    file.write(np.array((count, crc32(sums)), dtype=_FOOTER).tobytes())
    file.flush()
    os.fsync(file.fileno())
