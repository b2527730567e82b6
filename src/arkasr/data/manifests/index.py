"""The index of a manifest that does not fit into memory: place, duration and language of each line.

`indexing.py` builds it: a folder `NAME.jsonl.index/` beside the manifest, or a folder in the cache. `index.json`
identifies the manifest, `lines` holds a record for each line, `ids` finds a line by its id. Records stay on the disk,
and their checksums are verified when they are read.
"""

import json
import os
from bisect import bisect_left
from contextlib import suppress
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from arkasr.data.cache import cache_folder
from arkasr.data.manifests.checked_records import CheckedRecords, DamagedError
from arkasr.data.manifests.manifest import Utterance, parse_line
from arkasr.errors import InputError

FORMAT = 3
DESCRIPTION, LINES, IDS = "index.json", "lines", "ids"
RECORD = np.dtype(
    [
        ("offset", "<u8"),  # of the line in the manifest, bytes
        ("size", "<u4"),  # of the line, bytes
        ("crc32", "<u4"),  # of the line
        ("seconds", "<f8"),  # as `seconds_of` returns them; NaN if the audio cannot be measured
        ("language", "u1"),  # position in the index's list of languages
        ("labelled", "?"),  # whether there is a `text`
    ]
)
# `ids` is sorted. The low `line_bits` bits of a key are a line number. The remaining bits are the high bits of the
# digest of that line's id.
ID_KEY = np.dtype("<u8")
_BYTES = np.dtype((np.void, RECORD.itemsize))  # NumPy copies records ten times faster without their fields

CHUNK = 65_536  # records that are read or written at once
# Wanted records are read in one range, with those between them, if the range has at most this many times as many
# records.
MAX_RANGE_PER_RECORD = 64


class ManifestIndex:
    """The lines of an indexed manifest, numbered from 0 without the blank ones.

    May be used in forked processes. Unpickling opens the files again.

    Args:
        manifest: the indexed file.
        folder: of the index.

    Attributes:
        languages: of the manifest; records refer to them by position.
        unmeasured: number of lines whose audio could not be measured.
        labelled: whether all lines have a text.

    Raises:
        OSError: there is no such index.
        ValueError: the index is damaged or of another format, or the manifest has changed since it was built.
    """

    def __init__(self, manifest: Path, folder: Path) -> None:
        description = json.loads((folder / DESCRIPTION).read_text())
        if not isinstance(description, dict) or description.pop("crc32", None) != checksum_of(description):
            raise DamagedError(f"{folder / DESCRIPTION}: is damaged")
        if description["format"] != FORMAT or description["manifest"] != fingerprint_of(manifest):
            raise ValueError(f"{folder}: is of another format, or not of this version of the manifest")
        self._lines = CheckedRecords(folder / LINES, RECORD)
        self._ids = CheckedRecords(folder / IDS, ID_KEY)
        if not len(self._lines) == len(self._ids) == description["lines"]:
            raise DamagedError(f"{folder}: holds files of two indices")
        self.manifest = manifest
        self.languages: list[str | None] = description["languages"]
        self.unmeasured: int = description["unmeasured"]
        self.labelled: bool = description["labelled"]
        self._folder = folder
        self._text = manifest.open("rb")

    def __reduce__(self) -> tuple[Any, ...]:
        return ManifestIndex, (self.manifest, self._folder)

    def __len__(self) -> int:
        return len(self._lines)

    def records(self, first: int, last: int) -> np.ndarray:
        """The records of lines `first` to `last - 1`, `RECORD` `[last - first]`.

        Raises:
            InputError: the records are damaged.
        """
        return self._read(self._lines, first, last)

    def records_of(self, lines: np.ndarray) -> np.ndarray:
        """The records of the given lines, in the given order, `RECORD` `[n]`.

        Args:
            lines: int `[n]`, in any order.

        Raises:
            InputError: the records are damaged.
        """
        order = np.argsort(lines)
        ascending = lines[order].astype(np.int64)
        found = np.empty(len(lines), dtype=_BYTES)
        first = 0
        while first < len(lines):
            start = int(ascending[first])
            last = int(np.searchsorted(ascending, start + CHUNK))
            wanted = ascending[first:last]
            if len(wanted) * MAX_RANGE_PER_RECORD < int(wanted[-1]) + 1 - start:
                records = np.concatenate([self.records(line, line + 1) for line in wanted.tolist()]).view(_BYTES)
            else:
                records = self.records(start, int(wanted[-1]) + 1).view(_BYTES)[wanted - start]
            found[order[first:last]] = records
            first = last
        return found.view(RECORD)

    def utterance(self, line: int) -> Utterance:
        """One line of the manifest.

        Raises:
            InputError: the line has changed since it was indexed.
        """
        record = self.records(line, line + 1)[0]
        raw = os.pread(self._text.fileno(), int(record["size"]), int(record["offset"]))
        if crc32(raw) != record["crc32"]:
            raise self._invalidated(f"the line at byte {record['offset']} has changed since it was indexed")
        return parse_line(raw, self.manifest.parent, check_files=False)

    def find(self, name: str) -> int | None:
        """The number of the line whose id is `name`; None if no line has it.

        Raises:
            InputError: the index is damaged.
        """
        bits = line_bits(len(self))
        prefix = digest_of(name) >> bits
        first = bisect_left(range(len(self)), prefix << bits, key=self._id_key)
        for place in range(first, len(self)):
            key = self._id_key(place)
            if key >> bits != prefix:
                return None
            line = key & ((1 << bits) - 1)
            if self.utterance(line).id == name:
                return line
        return None

    def _id_key(self, place: int) -> int:
        return int(self._read(self._ids, place, place + 1)[0])

    def _read(self, records: CheckedRecords, first: int, last: int) -> np.ndarray:
        try:
            return records(first, last)
        except DamagedError as error:
            raise self._invalidated(str(error)) from error

    def _invalidated(self, reason: str) -> InputError:
        """An error with the reason. The description is removed, so that the next start does not use this index.

        It builds a new one, or reads a small manifest into memory.
        """
        with suppress(OSError):
            (self._folder / DESCRIPTION).unlink()
        return InputError(
            f"{self.manifest}: {reason}; start again (this index is not used any more); if this message comes back, "
            f"remove {self._folder}"
        )


def open_index(manifest: Path) -> ManifestIndex | None:
    """The index of a manifest; None if there is none, it is damaged, or the manifest has changed since it was built."""
    for folder in folders_of(manifest):
        with suppress(OSError, ValueError, KeyError):
            return ManifestIndex(manifest, folder)
    return None


def folders_of(manifest: Path) -> tuple[Path, Path]:
    """Where the index of a manifest may be: beside it, or in the cache if that folder is not writable."""
    digest = sha256(os.fsencode(manifest.resolve())).hexdigest()
    return manifest.with_name(f"{manifest.name}.index"), cache_folder() / f"index-{digest[:16]}"


def fingerprint_of(manifest: Path) -> dict[str, int]:
    """Size and time of a manifest, which differ once it has changed."""
    stat = manifest.stat()
    return {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}


def checksum_of(description: dict[str, Any]) -> int:
    """A checksum of the description of an index."""
    return crc32(json.dumps(description, sort_keys=True).encode())


def digest_of(name: str) -> int:
    """A digest of an id, 64 bits."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")


def line_bits(lines: int) -> int:
    """Number of bits of an id key that hold the number of a line."""
    return lines.bit_length()
