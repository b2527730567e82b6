"""The index beside a manifest that does not fit into memory: where each line stands, and what batches are formed from.

`NAME.jsonl.index/` holds `lines.npy`, one record a line, and `index.json`, which says of which file it was made.
Nothing is kept in memory: records and lines are read from their places when they are asked for. `indexing.py` makes it.
"""

import json
import os
from pathlib import Path
from typing import IO, Any

import numpy as np

from arkasr.data.manifest import Utterance, parse_line
from arkasr.errors import InputError

FORMAT = 1
RECORD = np.dtype(
    [
        ("offset", "<u8"),  # of the line in the manifest, bytes
        ("size", "<u4"),  # of the line, bytes
        ("seconds", "<f8"),  # as `seconds_of` gives them; not a number where the audio cannot be measured
        ("language", "u1"),  # place in the index's list of languages
        ("labelled", "?"),  # whether there is a `text`
    ]
)

CHUNK = 65_536  # records that are read or written at once
# Records are read in one piece if so many of those that lie between them are not wanted, at most.
SPARSEST = 64


class ManifestIndex:
    """The lines of an indexed manifest, by their number among those that are not blank, counted from 0.

    May be used in forked processes, and opens its files anew where it is unpickled.

    Args:
        manifest: that is indexed.
        languages: all that occur, in the order of their numbers in the records.
        lines: how many there are.
        unmeasured: how many of them have audio that could not be measured.
    """

    def __init__(self, manifest: Path, languages: list[str | None], lines: int, unmeasured: int) -> None:
        self.manifest = manifest
        self.languages = languages
        self.unmeasured = unmeasured
        self._count = lines
        self._text = manifest.open("rb")
        self._records = (folder_of(manifest) / "lines.npy").open("rb")
        self._first_record = length_of_header(self._records)

    def __reduce__(self) -> tuple[Any, ...]:
        return ManifestIndex, (self.manifest, self.languages, self._count, self.unmeasured)

    def __len__(self) -> int:
        return self._count

    def records(self, first: int, last: int) -> np.ndarray:
        """`RECORD` `[last - first]` of the lines from `first` to before `last`."""
        return np.frombuffer(self._read(first, last), dtype=RECORD)

    def records_of(self, lines: np.ndarray) -> np.ndarray:
        """`RECORD` `[n]` of lines in any order, int `[n]`."""
        order = np.argsort(lines, kind="stable")
        ascending = lines[order].astype(np.int64)
        found = np.empty(len(lines), dtype=RECORD)
        first = 0
        while first < len(lines):
            start = int(ascending[first])
            last = int(np.searchsorted(ascending, start + CHUNK))
            wanted = ascending[first:last]
            if len(wanted) * SPARSEST < int(wanted[-1]) + 1 - start:
                raw = b"".join(self._read(line, line + 1) for line in wanted.tolist())
                found[first:last] = np.frombuffer(raw, dtype=RECORD)
            else:
                found[first:last] = self.records(start, int(wanted[-1]) + 1)[wanted - start]
            first = last
        back = np.empty_like(found)
        back[order] = found
        return back

    def utterance(self, line: int) -> Utterance:
        """One line of the manifest.

        Raises:
            InputError: the manifest is not the one that was indexed.
        """
        record = self.records(line, line + 1)[0]
        raw = os.pread(self._text.fileno(), int(record["size"]), int(record["offset"]))
        try:
            return parse_line(raw, self.manifest.parent, check_files=False)
        except InputError as error:
            raise InputError(
                f"{self.manifest}: its index does not fit ({error} at byte {record['offset']}); if the manifest has "
                f"changed, start again, else remove {folder_of(self.manifest)}"
            ) from error

    def _read(self, first: int, last: int) -> bytes:
        start = self._first_record + first * RECORD.itemsize
        return os.pread(self._records.fileno(), (last - first) * RECORD.itemsize, start)


def open_index(manifest: Path) -> ManifestIndex | None:
    """The index of a manifest; None if there is none, it is damaged, or the manifest has changed since it was made."""
    folder = folder_of(manifest)
    try:
        said = json.loads((folder / "index.json").read_text())
        with (folder / "lines.npy").open("rb") as file:
            room = (folder / "lines.npy").stat().st_size - length_of_header(file)
        if said["format"] != FORMAT or said["manifest"] != fingerprint_of(manifest):
            return None
        if room != said["lines"] * RECORD.itemsize:
            return None
        return ManifestIndex(manifest, said["languages"], said["lines"], said["unmeasured"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def folder_of(manifest: Path) -> Path:
    """Where the index of a manifest is."""
    return manifest.with_name(f"{manifest.name}.index")


def fingerprint_of(manifest: Path) -> dict[str, int]:
    """What a manifest that has changed does not have in common with what it was."""
    stat = manifest.stat()
    return {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}


def length_of_header(file: IO[bytes]) -> int:
    """Bytes before the first record.

    Raises:
        ValueError: this is no .npy file of such records.
    """
    file.seek(0)
    version = np.lib.format.read_magic(file)
    _, _, dtype = np.lib.format.read_array_header_1_0(file) if version == (1, 0) else (None, None, None)
    if dtype != RECORD:
        raise ValueError("other records")
    return file.tell()
