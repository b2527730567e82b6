"""The index of a manifest that does not fit into memory: where each line stands, and what batches are formed from.

A folder, `NAME.jsonl.index/` beside the manifest or one in the cache: `index.json` says of which file it was made,
`lines` holds a record for each line, `ids` finds a line by its id. Nothing is kept in memory, and nothing is believed
without its checksum. `indexing.py` makes it.
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

FORMAT = 2
DESCRIPTION, LINES, IDS = "index.json", "lines", "ids"
RECORD = np.dtype(
    [
        ("offset", "<u8"),  # of the line in the manifest, bytes
        ("size", "<u4"),  # of the line, bytes
        ("crc32", "<u4"),  # of the line
        ("seconds", "<f8"),  # as `seconds_of` gives them; not a number where the audio cannot be measured
        ("language", "u1"),  # place in the index's list of languages
        ("labelled", "?"),  # whether there is a `text`
    ]
)
_WHOLE = np.dtype((np.void, RECORD.itemsize))  # copied at once: field by field it takes ten times as long
IDENTITY = np.dtype([("digest", "<u8"), ("line", "<u8")])  # in the order of the digests of the ids

CHUNK = 65_536  # records that are read or written at once
# Records are read in one piece if so many of those that lie between them are not wanted, at most.
SPARSEST = 64


class ManifestIndex:
    """The lines of an indexed manifest, by their number among those that are not blank, counted from 0.

    May be used in forked processes, and opens its files anew where it is unpickled.

    Args:
        manifest: that is indexed.
        folder: of the index.

    Attributes:
        languages: all that occur, in the order of their numbers in the records.
        unmeasured: how many lines have audio that could not be measured.
        labelled: whether all lines have a text.

    Raises:
        OSError: there is no such index.
        ValueError: it is damaged, or the manifest has changed since it was made.
    """

    def __init__(self, manifest: Path, folder: Path) -> None:
        said = json.loads((folder / DESCRIPTION).read_text())
        if not isinstance(said, dict) or said.pop("crc32", None) != checksum_of(said):
            raise DamagedError(f"{folder / DESCRIPTION}: is damaged")
        if said["format"] != FORMAT or said["manifest"] != fingerprint_of(manifest):
            raise ValueError(f"{folder}: is of another manifest")
        self._lines = CheckedRecords(folder / LINES, RECORD)
        self._ids = CheckedRecords(folder / IDS, IDENTITY)
        if not len(self._lines) == len(self._ids) == said["lines"]:
            raise DamagedError(f"{folder}: holds files of two indices")
        self.manifest = manifest
        self.languages: list[str | None] = said["languages"]
        self.unmeasured: int = said["unmeasured"]
        self.labelled: bool = said["labelled"]
        self._folder = folder
        self._text = manifest.open("rb")

    def __reduce__(self) -> tuple[Any, ...]:
        return ManifestIndex, (self.manifest, self._folder)

    def __len__(self) -> int:
        return len(self._lines)

    def records(self, first: int, last: int) -> np.ndarray:
        """`RECORD` `[last - first]` of the lines from `first` to before `last`.

        Raises:
            InputError: they are damaged.
        """
        return self._read(self._lines, first, last)

    def records_of(self, lines: np.ndarray) -> np.ndarray:
        """`RECORD` `[n]` of lines in any order, int `[n]`.

        Raises:
            InputError: they are damaged.
        """
        order = np.argsort(lines)
        ascending = lines[order].astype(np.int64)
        found = np.empty(len(lines), dtype=_WHOLE)
        first = 0
        while first < len(lines):
            start = int(ascending[first])
            last = int(np.searchsorted(ascending, start + CHUNK))
            wanted = ascending[first:last]
            if len(wanted) * SPARSEST < int(wanted[-1]) + 1 - start:
                some = np.concatenate([self.records(line, line + 1) for line in wanted.tolist()]).view(_WHOLE)
            else:
                some = self.records(start, int(wanted[-1]) + 1).view(_WHOLE)[wanted - start]
            found[order[first:last]] = some
            first = last
        return found.view(RECORD)

    def utterance(self, line: int) -> Utterance:
        """One line of the manifest.

        Raises:
            InputError: it is not the line that was indexed.
        """
        record = self.records(line, line + 1)[0]
        raw = os.pread(self._text.fileno(), int(record["size"]), int(record["offset"]))
        if crc32(raw) != record["crc32"]:
            raise self._refused(f"what stands at byte {record['offset']} is not the line that was indexed")
        return parse_line(raw, self.manifest.parent, check_files=False)

    def find(self, name: str) -> int | None:
        """The line that has an id; None if none has.

        Raises:
            InputError: the index is damaged.
        """
        digest = digest_of(name)
        first = bisect_left(range(len(self)), digest, key=lambda place: int(self._identity(place)["digest"]))
        for place in range(first, len(self)):
            identity = self._identity(place)
            if identity["digest"] != digest:
                break
            if self.utterance(int(identity["line"])).id == name:
                return int(identity["line"])
        return None

    def _identity(self, place: int) -> np.void:
        identity: np.void = self._read(self._ids, place, place + 1)[0]
        return identity

    def _read(self, records: CheckedRecords, first: int, last: int) -> np.ndarray:
        try:
            return records(first, last)
        except DamagedError as error:
            raise self._refused(str(error)) from error

    def _refused(self, reason: str) -> InputError:
        """What is wrong, with the index no longer taken for whole."""
        with suppress(OSError):
            (self._folder / DESCRIPTION).unlink()
        return InputError(
            f"{self.manifest}: {reason}; start again, which makes the index anew (if not, remove {self._folder})"
        )


def open_index(manifest: Path) -> ManifestIndex | None:
    """The index of a manifest; None if there is none, it is damaged, or the manifest has changed since it was made."""
    for folder in folders_of(manifest):
        with suppress(OSError, ValueError, KeyError):
            return ManifestIndex(manifest, folder)
    return None


def folders_of(manifest: Path) -> tuple[Path, Path]:
    """Where the index of a manifest may be: beside it, or in the cache where that folder cannot be written to."""
    digest = sha256(os.fsencode(manifest.resolve())).hexdigest()
    return manifest.with_name(f"{manifest.name}.index"), cache_folder() / f"index-{digest[:16]}"


def fingerprint_of(manifest: Path) -> dict[str, int]:
    """What a manifest that has changed does not have in common with what it was."""
    stat = manifest.stat()
    return {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}


def checksum_of(said: dict[str, Any]) -> int:
    """Of the description of an index."""
    return crc32(json.dumps(said, sort_keys=True).encode())


def digest_of(name: str) -> int:
    """64 bits of an id."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")
