"""How the index of a manifest is made: one pass over its lines, which are checked as when they are read into memory.

Needs little memory however long the manifest is. The index appears when it is complete, whatever happens before.
"""

import json
import math
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from errno import EACCES, EPERM, EROFS
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any
from zlib import crc32

import numpy as np

from arkasr.data.checked_records import seal
from arkasr.data.examples import seconds_of
from arkasr.data.index import (
    CHUNK,
    DESCRIPTION,
    FORMAT,
    IDENTITY,
    IDS,
    LINES,
    RECORD,
    ManifestIndex,
    checksum_of,
    digest_of,
    fingerprint_of,
    folders_of,
    open_index,
)
from arkasr.data.manifest import ManifestError, Problem, Utterance, parse_line, same_id
from arkasr.errors import InputError
from arkasr.files import atomic_path, errors_named, write_atomically
from arkasr.locks import LocksUnsupportedError, locked

MOST_PROBLEMS = 10_000  # bad lines after which no more are looked for
IDS_AT_ONCE = 2**20  # ids that are sorted at once
_NUMBERED = np.dtype([("digest", "<u8"), ("number", "<u8")])  # of every line's id, and its number in the file
_LOCK = ".lock"


def build_index(manifest: Path, on_bytes: Callable[[int], None] | None = None, *, anew: bool = False) -> ManifestIndex:
    """Read a manifest from end to end and write its index, unless another process has just done so.

    Args:
        manifest: every line is checked, and that its audio file is there; where it does not say its duration, that is
            measured if it can be.
        on_bytes: told how much of the manifest has just been read.
        anew: even if there is one: audio may have been mended since.

    Raises:
        ManifestError: some lines are bad; names the first and counts the others.
        InputError: there is no such file, it holds no utterance, or it was written to meanwhile.
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
        with (
            atomic_path(folder / LINES, writer=machine) as lines_path,
            atomic_path(folder / IDS, writer=machine) as ids_path,
        ):
            with (
                lines_path.open("wb+") as records,
                ids_path.open("wb+") as ids,
                TemporaryFile(dir=folder) as numbered,
            ):
                said = _index_lines(manifest, records, ids, numbered, on_bytes or (lambda read: None))
                seal(records, RECORD)
                seal(ids, IDENTITY)
            if fingerprint_of(manifest) != fingerprint:
                raise InputError(f"{manifest}: was written to while it was read; index it when it is complete")
        said |= {"format": FORMAT, "manifest": fingerprint}
        write_atomically(folder / DESCRIPTION, [json.dumps(said | {"crc32": checksum_of(said)}) + "\n"])
    return ManifestIndex(manifest, folder)


def _index_lines(
    manifest: Path, records: IO[bytes], ids: IO[bytes], numbered: IO[bytes], on_bytes: Callable[[int], None]
) -> dict[str, Any]:
    """Write a record and an identity for every good line; gives what is to be said of all of them."""
    problems: list[Problem] = []
    languages: dict[str | None, int] = {}
    count = unmeasured = labelled = 0
    rows: list[tuple[int, int, int, float, int, bool]] = []
    names: list[tuple[int, int]] = []

    def write() -> None:
        records.write(np.array(rows, dtype=RECORD).tobytes())
        numbered.write(np.array(names, dtype=_NUMBERED).tobytes())
        rows.clear()
        names.clear()

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
            labelled += utterance.text is not None
            rows.append((first, len(raw), crc32(raw), seconds, language, utterance.text is not None))
            names.append((digest_of(utterance.id), number))
            count += 1
            if len(rows) == CHUNK:
                write()
                on_bytes(offset - told)
                told = offset
    write()
    on_bytes(offset - told)
    problems += _sort_ids(manifest, records, ids, numbered, count, MOST_PROBLEMS - len(problems))
    if problems:
        problems.sort(key=lambda problem: problem.line)
        raise ManifestError(manifest, problems, looked_for_all=len(problems) < MOST_PROBLEMS)
    if not count:
        raise InputError(f"{manifest}: the manifest is empty; give it one JSON object a line")
    return {
        "lines": count,
        "languages": list(languages),
        "unmeasured": unmeasured,
        "labelled": labelled == count,
    }


def _seconds(utterance: Utterance) -> float:
    try:
        return seconds_of(utterance)
    except InputError:
        return math.nan


def _sort_ids(
    manifest: Path, records: IO[bytes], ids: IO[bytes], numbered: IO[bytes], count: int, most: int
) -> list[Problem]:
    """Write all identities in order, a share of all digests in each pass; gives lines whose id one before them has."""
    problems: list[Problem] = []
    records.flush()
    numbered.flush()
    passes = -(-count // IDS_AT_ONCE)
    for turn in range(passes):
        share = _share_of_ids(numbered, count, turn, passes)
        ids.write(share.tobytes())
        same = np.diff(share["digest"]) == 0
        seen: dict[str, int] = {}
        for place in share["line"][np.append(same, False) | np.insert(same, 0, False)].tolist():
            number = int(_at(numbered, _NUMBERED, place)["number"])
            utterance = _reread(manifest, records, place)
            if (first := seen.setdefault(utterance.id, number)) != number:
                problems.append(Problem(number, same_id(utterance, first)))
            if len(problems) >= most:
                return problems
    return problems


def _share_of_ids(numbered: IO[bytes], count: int, turn: int, passes: int) -> np.ndarray:
    """`IDENTITY` `[n]` of the digests whose turn it is, in order; lines of equal digest as in the manifest."""
    shares = []
    for first in range(0, count, CHUNK):
        raw = os.pread(numbered.fileno(), CHUNK * _NUMBERED.itemsize, first * _NUMBERED.itemsize)
        digests = np.frombuffer(raw, dtype=_NUMBERED)["digest"]
        mine = np.flatnonzero((digests >> 40) * passes >> 24 == turn)
        share = np.empty(len(mine), dtype=IDENTITY)
        share["digest"], share["line"] = digests[mine], first + mine
        shares.append(share)
    found = np.concatenate(shares)
    return found[np.argsort(found["digest"], kind="stable")]


def _reread(manifest: Path, records: IO[bytes], place: int) -> Utterance:
    record = _at(records, RECORD, place)
    with manifest.open("rb") as file:
        file.seek(int(record["offset"]))
        return parse_line(file.read(int(record["size"])), manifest.parent, check_files=False)


def _at(file: IO[bytes], dtype: np.dtype, place: int) -> np.void:
    found: np.void = np.frombuffer(os.pread(file.fileno(), dtype.itemsize, place * dtype.itemsize), dtype=dtype)[0]
    return found


@contextmanager
def _locked_folder(manifest: Path) -> Iterator[Path]:
    """The folder for the index, locked: beside the manifest, or in the cache if that folder is not writable."""
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
