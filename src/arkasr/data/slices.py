"""Audio that is a part of another file: `shards/000.tar:1536:48234` is 48,234 bytes of a tar from byte 1,536 on.

The notation is that of fairseq's manifests. A member of an uncompressed tar lies in it as it is, so that any one can be
read without the others. Knows nothing of what the bytes mean.
"""

import re
from dataclasses import dataclass
from pathlib import Path

_SLICE = re.compile(r"(?P<file>.+\.tar):(?P<offset>\d+):(?P<size>\d+)", re.DOTALL)


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

    def read(self) -> bytes:
        """The bytes; fewer where the file ends before them.

        Raises:
            OSError: the file cannot be read.
        """
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


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
