"""The index beside a manifest that does not fit into memory: where each line stands, and what batches are formed from.

`NAME.jsonl.index/` holds `lines.npy`, one record a line, and `index.json`, which says of which file it was made and is
written last. Nothing of either is kept in memory: records and lines are read from their places when they are asked for.
"""

import fcntl
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from arkasr.data.examples import seconds_of
from arkasr.data.manifest import ManifestError, Problem, Utterance, parse_line, same_id
from arkasr.errors import InputError
from arkasr.files import write_whole

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
_IDENTITY = np.dtype([("hash", "<i8"), ("line", "<u8")])

CHUNK = 65_536  # records that are read or written at once
MOST_PROBLEMS = 10_000  # bad lines after which no more are looked for
IDS_AT_ONCE = 2**21  # ids whose repetitions are looked for in one pass
# Records are read in one piece if so many of those that lie between them are not wanted, at most.
SPARSEST = 64


class ManifestIndex:
    """The lines of an indexed manifest, by their number among those that are not blank, counted from 0.

    May be used in forked processes, and opens its files anew where it is unpickled.
    """

    def __init__(self, manifest: Path, languages: list[str | None], lines: int) -> None:
        self.manifest = manifest
        self.languages = languages
        self._count = lines
        self._text = manifest.open("rb")
        self._records = (_folder_of(manifest) / "lines.npy").open("rb")
        self._first_record = _length_of_header(self._records)

    def __reduce__(self) -> tuple[Any, ...]:
        return ManifestIndex, (self.manifest, self.languages, self._count)

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
                f"changed, start again, else remove {_folder_of(self.manifest)}"
            ) from error

    def _read(self, first: int, last: int) -> bytes:
        start = self._first_record + first * RECORD.itemsize
        return os.pread(self._records.fileno(), (last - first) * RECORD.itemsize, start)


def open_index(manifest: Path) -> ManifestIndex | None:
    """The index of a manifest; None if there is none, it is damaged, or the manifest has changed since it was made."""
    folder = _folder_of(manifest)
    try:
        said = json.loads((folder / "index.json").read_text())
        with (folder / "lines.npy").open("rb") as file:
            room = (folder / "lines.npy").stat().st_size - _length_of_header(file)
        if said["format"] != FORMAT or said["manifest"] != _fingerprint(manifest):
            return None
        if room != said["lines"] * RECORD.itemsize:
            return None
        return ManifestIndex(manifest, said["languages"], said["lines"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


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
    folder = _folder_of(manifest)
    folder.mkdir(exist_ok=True)
    with _alone_in(folder):
        if index := open_index(manifest):
            return index
        (folder / "index.json").unlink(missing_ok=True)
        fingerprint = _fingerprint(manifest)
        try:
            with (folder / ".lines.writing").open("wb+") as records, (folder / ".ids.writing").open("wb+") as ids:
                lines, languages = _index_lines(manifest, records, ids, on_bytes or (lambda read: None))
            if _fingerprint(manifest) != fingerprint:
                raise InputError(f"{manifest}: was written to while it was read; index it when it is complete")
            (folder / ".lines.writing").replace(folder / "lines.npy")
        finally:
            for name in (".lines.writing", ".ids.writing"):
                (folder / name).unlink(missing_ok=True)
        said = {"format": FORMAT, "manifest": fingerprint, "lines": lines, "languages": languages}
        write_whole(folder / "index.json", [json.dumps(said) + "\n"])
    return ManifestIndex(manifest, languages, lines)


def _index_lines(
    manifest: Path, records: IO[bytes], ids: IO[bytes], on_bytes: Callable[[int], None]
) -> tuple[int, list[str | None]]:
    """Write a record and an identity for every good line; gives their number and the languages."""
    problems: list[Problem] = []
    languages: dict[str | None, int] = {}
    count = 0
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
            rows.append((first, len(raw), _seconds(utterance), language, utterance.text is not None))
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
    first_record = _length_of_header(records)
    records.seek(0)
    _write_header(records, count)
    assert records.tell() == first_record
    return count, list(languages)


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
            if (first := seen.setdefault(utterance.id, line)) != line and len(problems) < most:
                problems.append(Problem(line, same_id(utterance, first)))
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
    if not hashes:
        return np.empty(0, dtype=np.int64)
    share = np.concatenate(hashes)
    order = np.argsort(share, kind="stable")
    same = np.diff(share[order]) == 0
    return np.concatenate(places)[order[np.append(same, False) | np.insert(same, 0, False)]]


def _reread(manifest: Path, records: IO[bytes], place: int) -> Utterance:
    start = _length_of_header(records) + place * RECORD.itemsize
    record = np.frombuffer(os.pread(records.fileno(), RECORD.itemsize, start), dtype=RECORD)[0]
    with manifest.open("rb") as file:
        file.seek(int(record["offset"]))
        return parse_line(file.read(int(record["size"])), manifest.parent, check_files=False)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait for other processes that make the same index; the system lets go of the lock of one that is killed."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _folder_of(manifest: Path) -> Path:
    return manifest.with_name(f"{manifest.name}.index")


def _fingerprint(manifest: Path) -> dict[str, int]:
    stat = manifest.stat()
    return {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}


def _write_header(file: IO[bytes], count: int) -> None:
    """The header of a .npy file; NumPy gives it the same length for any number of records."""
    described = {"descr": np.lib.format.dtype_to_descr(RECORD), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, described)


def _length_of_header(file: IO[bytes]) -> int:
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
