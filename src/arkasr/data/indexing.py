"""How the index of a manifest is made: one pass over its lines, which are checked as when they are read into memory.

Needs little memory however long the manifest is. The index appears when it is complete, whatever happens before.
"""

import fcntl
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from arkasr.data.examples import seconds_of
from arkasr.data.index import (
    CHUNK,
    FORMAT,
    RECORD,
    ManifestIndex,
    fingerprint_of,
    folder_of,
    length_of_header,
    open_index,
)
from arkasr.data.manifest import ManifestError, Problem, Utterance, parse_line, same_id
from arkasr.errors import InputError
from arkasr.files import write_whole

MOST_PROBLEMS = 10_000  # bad lines after which no more are looked for
IDS_AT_ONCE = 2**21  # ids whose repetitions are looked for in one pass
_IDENTITY = np.dtype([("hash", "<i8"), ("line", "<u8")])


def build_index(manifest: Path, on_bytes: Callable[[int], None] | None = None) -> ManifestIndex:
    """Read a manifest from end to end and write its index, unless another process has just done so.

    Args:
        manifest: every line is checked, and that its audio file is there; where it does not say its duration, that is
            measured if it can be.
        on_bytes: told how much of the manifest has just been read.

    Raises:
        ManifestError: some lines are bad; names the first and counts the others.
        InputError: there is no such file, it holds no utterance, or it was written to meanwhile.
    """
    if not manifest.is_file():
        raise InputError(f"{manifest}: no such manifest")
    folder = folder_of(manifest)
    folder.mkdir(exist_ok=True)
    with _alone_in(folder):
        if index := open_index(manifest):
            return index
        (folder / "index.json").unlink(missing_ok=True)
        fingerprint = fingerprint_of(manifest)
        try:
            with (folder / ".lines.writing").open("wb+") as records, (folder / ".ids.writing").open("wb+") as ids:
                lines, languages, unmeasured = _index_lines(manifest, records, ids, on_bytes or (lambda read: None))
            if fingerprint_of(manifest) != fingerprint:
                raise InputError(f"{manifest}: was written to while it was read; index it when it is complete")
            (folder / ".lines.writing").replace(folder / "lines.npy")
        finally:
            for name in (".lines.writing", ".ids.writing"):
                (folder / name).unlink(missing_ok=True)
        said = {
            "format": FORMAT,
            "manifest": fingerprint,
            "lines": lines,
            "languages": languages,
            "unmeasured": unmeasured,
        }
        write_whole(folder / "index.json", [json.dumps(said) + "\n"])
    return ManifestIndex(manifest, languages, lines, unmeasured)


def _index_lines(
    manifest: Path, records: IO[bytes], ids: IO[bytes], on_bytes: Callable[[int], None]
) -> tuple[int, list[str | None], int]:
    """Write a record and an identity for every good line; gives lines, languages, and lines that were not measured."""
    problems: list[Problem] = []
    languages: dict[str | None, int] = {}
    count = unmeasured = 0
    # The header says how many there are: it is written again, in the same place, when that is known.
    _write_header(records, 0)
    rows: list[tuple[int, int, float, int, bool]] = []
    identities: list[tuple[int, int]] = []

    def write() -> None:
        records.write(np.array(rows, dtype=RECORD).tobytes())
        ids.write(np.array(identities, dtype=_IDENTITY).tobytes())
        rows.clear()
        identities.clear()

    offset = told = 0
    with manifest.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            first, offset = offset, offset + len(raw)
            if not raw.strip():
                continue
            try:
                utterance = parse_line(raw, manifest.parent, check_files=True)
            except InputError as error:
                problems.append(Problem(number, str(error)))
                if len(problems) == MOST_PROBLEMS:
                    break
                continue
            language = languages.setdefault(utterance.language, len(languages))
            seconds = _seconds(utterance)
            unmeasured += math.isnan(seconds)
            rows.append((first, len(raw), seconds, language, utterance.text is not None))
            identities.append((hash(utterance.id), number))
            count += 1
            if len(rows) == CHUNK:
                write()
                on_bytes(offset - told)
                told = offset
    write()
    on_bytes(offset - told)
    problems += _repeated(manifest, records, ids, count, MOST_PROBLEMS - len(problems))
    if problems:
        problems.sort(key=lambda problem: problem.line)
        raise ManifestError(manifest, problems, looked_for_all=len(problems) < MOST_PROBLEMS)
    if not count:
        raise InputError(f"{manifest}: the manifest is empty; give it one JSON object a line")
    first_record = length_of_header(records)
    records.seek(0)
    _write_header(records, count)
    assert records.tell() == first_record
    return count, list(languages), unmeasured


def _seconds(utterance: Utterance) -> float:
    try:
        return seconds_of(utterance)
    except InputError:
        return math.nan


def _repeated(manifest: Path, records: IO[bytes], ids: IO[bytes], count: int, most: int) -> list[Problem]:
    """Lines whose id a line before them has: those of equal hash are looked at, a share of all hashes in each pass."""
    problems: list[Problem] = []
    records.flush()
    ids.flush()
    passes = -(-count // IDS_AT_ONCE)
    for turn in range(passes):
        seen: dict[str, int] = {}
        for place in _places_of_equal_hash(ids, count, turn, passes).tolist():
            raw = os.pread(ids.fileno(), _IDENTITY.itemsize, place * _IDENTITY.itemsize)
            line = int(np.frombuffer(raw, dtype=_IDENTITY)["line"][0])
            utterance = _reread(manifest, records, place)
            if (first := seen.setdefault(utterance.id, line)) != line:
                problems.append(Problem(line, same_id(utterance, first)))
            if len(problems) >= most:
                return problems
    return problems


def _places_of_equal_hash(ids: IO[bytes], count: int, turn: int, passes: int) -> np.ndarray:
    """Numbers of the lines whose hash another line has, int64 `[n]`, ascending within a hash."""
    hashes, places = [], []
    for first in range(0, count, CHUNK):
        raw = os.pread(ids.fileno(), CHUNK * _IDENTITY.itemsize, first * _IDENTITY.itemsize)
        found = np.frombuffer(raw, dtype=_IDENTITY)["hash"]
        mine = np.flatnonzero(found % passes == turn)
        hashes.append(found[mine])
        places.append(first + mine)
    share = np.concatenate(hashes) if hashes else np.empty(0, dtype=np.int64)
    if not len(share):
        return np.empty(0, dtype=np.int64)
    order = np.argsort(share, kind="stable")
    same = np.diff(share[order]) == 0
    return np.concatenate(places)[order[np.append(same, False) | np.insert(same, 0, False)]]


def _reread(manifest: Path, records: IO[bytes], place: int) -> Utterance:
    start = length_of_header(records) + place * RECORD.itemsize
    record = np.frombuffer(os.pread(records.fileno(), RECORD.itemsize, start), dtype=RECORD)[0]
    with manifest.open("rb") as file:
        file.seek(int(record["offset"]))
        return parse_line(file.read(int(record["size"])), manifest.parent, check_files=False)


def _write_header(file: IO[bytes], count: int) -> None:
    """The header of a .npy file; NumPy gives it the same length for any number of records."""
    described = {"descr": np.lib.format.dtype_to_descr(RECORD), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, described)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait for other processes that make the same index; the system lets go of the lock of one that is killed."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
