"""Builds the index of a manifest in one pass, with the same checks as for a manifest that is read into memory.

Needs 8 bytes of memory per line. The index is valid once its description is written; `index.py` reads it.
"""

import itertools
import json
import math
import os
import platform
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from errno import EACCES, EPERM, EROFS
from pathlib import Path
from typing import IO, Any
from zlib import crc32

import numpy as np

from arkasr.data.manifests.checked_records import seal
from arkasr.data.manifests.durations import seconds_of
from arkasr.data.manifests.index import (
    CHUNK,
    DESCRIPTION,
    FORMAT,
    ID_KEY,
    IDS,
    LINES,
    RECORD,
    ManifestIndex,
    checksum_of,
    digest_of,
    fingerprint_of,
    folders_of,
    line_bits,
    open_index,
)
from arkasr.data.manifests.manifest import ManifestError, Problem, Utterance, parse_line, same_id
from arkasr.errors import InputError
from arkasr.files import atomic_path, errors_named, write_atomically
from arkasr.locks import LocksUnsupportedError, locked

MOST_PROBLEMS = 10_000  # bad lines after which the pass ends
_LOCK = ".lock"


def build_index(manifest: Path, on_bytes: Callable[[int], None] | None = None, *, anew: bool = False) -> ManifestIndex:
    """Read a manifest from end to end and write its index. Waits for another process that is writing it.

    Args:
        manifest: every line is checked, and whether its audio file exists. Audio without a `duration` is measured.
        on_bytes: called with the number of bytes read since the last call.
        anew: build the index even if a valid one exists, because audio may have been repaired.

    Raises:
        ManifestError: some lines are bad; names the first and counts the others.
        InputError: there is no such file, it holds no utterance, or it changed while it was read.
    """
    if not manifest.is_file():
        raise InputError(f"{manifest}: no such manifest")
    with _locked_folder(manifest) as folder, errors_named(folder):
        if not anew and (index := open_index(manifest)):
            return index
        (folder / DESCRIPTION).unlink(missing_ok=True)
        fingerprint = fingerprint_of(manifest)
        # Other machines may not see the lock, and then write the same index at the same time.
        machine = platform.node()
        with atomic_path(folder / LINES, writer=machine) as lines, atomic_path(folder / IDS, writer=machine) as ids:
            description = _write_index(manifest, lines, ids, on_bytes or (lambda read: None))
            if fingerprint_of(manifest) != fingerprint:
                raise InputError(f"{manifest}: was written to while it was read; index it when it is complete")
        description |= {"format": FORMAT, "manifest": fingerprint}
        description["crc32"] = checksum_of(description)
        write_atomically(folder / DESCRIPTION, [json.dumps(description) + "\n"])
    return ManifestIndex(manifest, folder)


@contextmanager
def _locked_folder(manifest: Path) -> Iterator[Path]:
    """The folder for the index, locked.

    It is beside the manifest, or in the cache if the manifest's folder is not writable.
    """
    beside, cached = folders_of(manifest)
    with ExitStack() as stack:
        try:
            _create_locked(beside, stack)
            folder = beside
        except FileExistsError as error:
            raise InputError(f"{beside}: is where the index of {manifest.name} belongs; move the file away") from error
        except OSError as error:
            if error.errno not in (EACCES, EPERM, EROFS):
                raise
            _create_locked(cached, stack)
            folder = cached
        yield folder


def _create_locked(folder: Path, stack: ExitStack) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(LocksUnsupportedError), errors_named(folder):
        stack.enter_context(locked(folder / _LOCK))


class _Findings:
    """What the pass finds, besides the records."""

    def __init__(self) -> None:
        self.digests = array("Q")  # digest of the id of each good line
        self.skipped = array("Q")  # for every blank or bad line, the number of good lines before it
        self.languages: dict[str | None, int] = {}  # language → its place in the index's list
        self.unmeasured = self.labelled = 0
        self.problems: list[Problem] = []

    def file_line_of(self, index: int) -> int:
        """Line number in the file (from 1) of the good line with this index (from 0)."""
        return index + 1 + bisect_right(self.skipped, index)


def _write_index(manifest: Path, lines: Path, ids: Path, on_bytes: Callable[[int], None]) -> dict[str, Any]:
    """Write a record and an id key for every line; returns what the description says about them.

    Raises:
        ManifestError: some lines are bad.
        InputError: there is no line.
    """
    with lines.open("wb+") as records:
        found = _write_records(manifest, records, on_bytes)
        seal(records, RECORD)
        keys = _sorted_keys(found.digests)
        repeated = _repeated_ids(keys, manifest, records)
        for line, first in itertools.islice(repeated, MOST_PROBLEMS - len(found.problems)):
            message = same_id(_utterance(manifest, records, line), found.file_line_of(first))
            found.problems.append(Problem(found.file_line_of(line), message))
    if problems := sorted(found.problems, key=lambda problem: problem.line):
        raise ManifestError(manifest, problems, complete=len(problems) < MOST_PROBLEMS)
    count = len(keys)
    if not count:
        raise InputError(f"{manifest}: the manifest is empty; give it one JSON object a line")
    with ids.open("wb+") as file:
        file.write(keys.astype(ID_KEY, copy=False).data)
        seal(file, ID_KEY)
    return {
        "lines": count,
        "languages": list(found.languages),
        "unmeasured": found.unmeasured,
        "labelled": found.labelled == count,
    }


def _write_records(manifest: Path, records: IO[bytes], on_bytes: Callable[[int], None]) -> _Findings:
    """Check every line of a manifest and write the records of the good ones."""
    found = _Findings()
    rows: list[tuple[int, int, int, float, int, bool]] = []
    for number, (offset, raw, parsed) in enumerate(_parsed_lines(manifest, on_bytes), start=1):
        if not isinstance(parsed, Utterance):
            found.skipped.append(len(found.digests))
            if parsed is not None:
                found.problems.append(Problem(number, str(parsed)))
            if len(found.problems) == MOST_PROBLEMS:
                break
            continue
        seconds, labelled = _seconds(parsed), parsed.text is not None
        language = found.languages.setdefault(parsed.language, len(found.languages))
        rows.append((offset, len(raw), crc32(raw), seconds, language, labelled))
        found.digests.append(digest_of(parsed.id))
        found.unmeasured += math.isnan(seconds)
        found.labelled += labelled
        if len(rows) == CHUNK:
            records.write(np.array(rows, dtype=RECORD).tobytes())
            rows.clear()
    records.write(np.array(rows, dtype=RECORD).tobytes())
    return found


def _parsed_lines(
    manifest: Path, on_bytes: Callable[[int], None]
) -> Iterator[tuple[int, bytes, Utterance | InputError | None]]:
    """Offset and bytes of every line, and its utterance: None if it is blank, the error if it is bad."""
    offset = reported = 0
    with manifest.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            parsed: Utterance | InputError | None = None
            if raw.strip():
                try:
                    parsed = parse_line(raw, manifest.parent, check_files=True)
                except InputError as error:
                    parsed = error
            yield offset, raw, parsed
            offset += len(raw)
            if number % CHUNK == 0:
                on_bytes(offset - reported)
                reported = offset
    on_bytes(offset - reported)


def _seconds(utterance: Utterance) -> float:
    try:
        return seconds_of(utterance)
    except InputError:
        return math.nan


def _sorted_keys(digests: "array[int]") -> np.ndarray:
    """Turn the digests, in place, into the sorted keys of `ids`, uint64 `[n]`."""
    keys = np.frombuffer(digests, dtype=np.uint64)
    bits = line_bits(len(keys))
    for first in range(0, len(keys), CHUNK):
        piece = keys[first : first + CHUNK]
        piece[:] = (piece >> bits << bits) | np.arange(first, first + len(piece), dtype=np.uint64)
    keys.sort()
    return keys


def _repeated_ids(keys: np.ndarray, manifest: Path, records: IO[bytes]) -> Iterator[tuple[int, int]]:
    """Each line that repeats an earlier id, with the first line of that id."""
    bits = line_bits(len(keys))
    similar: set[int] = set()
    for start in range(0, len(keys), CHUNK):
        piece = keys[start : start + CHUNK + 1]
        (places,) = np.nonzero(piece[1:] >> bits == piece[:-1] >> bits)
        similar.update((piece[np.append(places, places + 1)] & ((1 << bits) - 1)).tolist())
    first_lines: dict[str, int] = {}
    for line in sorted(similar):
        first = first_lines.setdefault(_utterance(manifest, records, line).id, line)
        if first != line:
            yield line, first


def _utterance(manifest: Path, records: IO[bytes], line: int) -> Utterance:
    """A line of the manifest, by the records that were just written."""
    record = np.frombuffer(os.pread(records.fileno(), RECORD.itemsize, line * RECORD.itemsize), dtype=RECORD)[0]
    with manifest.open("rb") as file:
        file.seek(int(record["offset"]))
        return parse_line(file.read(int(record["size"])), manifest.parent, check_files=False)
