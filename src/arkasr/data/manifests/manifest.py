"""Reads and writes manifests: JSON Lines, one utterance per line.

Every bad line is found, not only the first. Audio files are not opened. Recipes read manifests of 64 MiB or more, and
manifests that have an index, through `index.py`.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arkasr.data.languages import canonical_language
from arkasr.data.slices import why_missing
from arkasr.errors import InputError
from arkasr.files import write_atomically

DURATION_TOLERANCE = 0.1  # seconds between the manifest and the file
TASKS = ("asr",)
MAX_SECONDS = 1e9  # larger times are errors


@dataclass(frozen=True, slots=True)
class Utterance:
    """A piece of audio and its transcript.

    Attributes:
        audio: absolute path of a file or a slice (`slices.py`).
        text: None if the manifest has none, or if labels are withheld.
        begin_time: seconds; None = from the start of the file.
        end_time: seconds, or `begin_time` and `duration` if the manifest has only these; None = to the end of the file.
        language: canonical English name.
        id: unique in its manifest.
        speaker: any label.
        duration: seconds of the piece; None = the manifest has neither `duration` nor `end_time`.
        fields: the manifest line with all its fields; outputs pass them through.
    """

    audio: Path
    text: str | None
    begin_time: float | None
    end_time: float | None
    language: str | None
    id: str
    speaker: str | None
    duration: float | None
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """An error in a line; lines count from 1."""

    line: int
    message: str


class ManifestError(InputError):
    """A manifest with bad lines; `problems` lists all of them, or the first ones if the search was stopped."""

    def __init__(self, path: Path, problems: list[Problem], *, complete: bool = True) -> None:
        first = problems[0]
        number = f"{len(problems) - 1} {'' if complete else 'or '}more"
        others = f" (and {number}; `arkasr data check {path}` lists all)" if len(problems) > 1 else ""
        super().__init__(f"{path}:{first.line}: {first.message}{others}")
        self.problems = problems


def read_manifest(path: str | Path, *, check_files: bool = True, folder: Path | None = None) -> list[Utterance]:
    """All utterances of a manifest, in order; blank lines are skipped.

    Args:
        path: the manifest.
        check_files: check that every audio file exists; slow on network disks.
        folder: base of relative audio paths; None = the manifest's folder.

    Raises:
        ManifestError: some lines are bad; the message names the first and counts the others.
        InputError: the manifest does not exist or is empty.
    """
    utterances, problems = parse_manifest(path, check_files=check_files, folder=folder)
    if problems:
        raise ManifestError(Path(path), problems)
    return list(utterances.values())


def parse_manifest(
    path: str | Path, *, check_files: bool = True, folder: Path | None = None
) -> tuple[dict[int, Utterance], list[Problem]]:
    """The utterances of a manifest by line number, and the problems of its bad lines.

    Raises:
        InputError: the manifest does not exist or is empty.
    """
    path = Path(path)
    if not _is_file(path):
        raise InputError(f"{path}: no such manifest; correct the path")
    utterances: dict[int, Utterance] = {}
    problems: list[Problem] = []
    lines_by_id: dict[str, int] = {}
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                utterance = parse_line(raw, folder or path.parent, check_files)
                if utterance.id in lines_by_id:
                    raise InputError(same_id(utterance, lines_by_id[utterance.id]))
            except InputError as error:
                problems.append(Problem(number, str(error)))
                continue
            lines_by_id[utterance.id] = number
            utterances[number] = utterance
    if not utterances and not problems:
        raise InputError(f"{path}: the manifest is empty; write one JSON object per line")
    return utterances, problems


def write_manifest(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON Lines, atomically."""
    write_atomically(Path(path), (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file that this package wrote; the fields are not checked.

    Raises:
        InputError: the file does not exist, or a line is not JSON.
    """
    if not _is_file(Path(path)):
        raise InputError(f"{path}: no such file")
    with Path(path).open("rb") as file:
        try:
            return [json.loads(line) for line in file]
        except ValueError as error:
            raise InputError(f"{path}: not JSON Lines ({error}); write the file again") from error


def parse_line(raw: bytes, folder: Path, check_files: bool) -> Utterance:
    """The utterance of one manifest line; audio paths are relative to `folder`.

    Raises:
        InputError: the line is bad; the message has no file name and no line number.
    """
    fields = _json_of(raw)
    if not isinstance(fields, dict):
        raise InputError(f"expected a JSON object, found {type(fields).__name__}; write one JSON object per line")
    name = fields.get("audio")
    if not isinstance(name, str) or not name:
        raise InputError("`audio` is missing; give the path of the audio file")
    audio = (folder / name).absolute()
    if check_files and (missing := why_missing(audio)):
        raise InputError(f"`audio` {name}: {missing}")
    begin, end = _seconds(fields, "begin_time"), _seconds(fields, "end_time")
    if end is not None and end <= (begin or 0.0):
        raise InputError(f"`end_time` {end} is not after `begin_time` {begin or 0.0}; correct the times")
    duration = _seconds(fields, "duration")
    if duration == 0:
        raise InputError("`duration` is 0; give the seconds, or leave it out")
    length = None if end is None else end - (begin or 0.0)
    if duration is not None and length is not None and abs(length - duration) > DURATION_TOLERANCE:
        raise InputError(f"`duration` is {duration:g} s, but the times give {length:g} s; correct one of them")
    task = fields.get("task")
    if task is not None and task not in TASKS:
        raise InputError(f"`task` is {task!r}; it must be {' or '.join(TASKS)}, or be left out")
    language = _string(fields, "language")
    identity = fields.get("id")
    if isinstance(identity, bool | float | list | dict) or identity == "":
        raise InputError(f"`id` is {identity!r}; it must be a non-empty string or a whole number")
    return Utterance(
        audio=audio,
        text=_string(fields, "text"),
        begin_time=begin,
        end_time=begin + duration if end is None and begin is not None and duration is not None else end,
        language=canonical_language(language) if language else None,
        id=str(identity) if identity is not None else _default_id(name, begin, end),
        speaker=_string(fields, "speaker"),
        duration=length if duration is None else duration,
        fields=fields,
    )


def _finite(number: str) -> float:
    """Python reads and writes NaN and Infinity (1e999 becomes one); other programs refuse such JSON."""
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is no JSON number")
    return value


def _json_of(raw: bytes) -> Any:
    try:
        fields = json.loads(raw.decode("utf-8-sig"), parse_float=_finite, parse_constant=_finite)
        if b"\\u" in raw:  # JSON allows half of a surrogate pair, UTF-8 outputs do not
            json.dumps(fields, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON ({error.msg} at column {error.colno}); write one JSON object per line") from error
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8; save the manifest as UTF-8") from error
    except UnicodeEncodeError as error:
        raise InputError("holds half of a surrogate pair (\\ud800 to \\udfff); write the character itself") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"not readable as JSON ({error}); write one plain JSON object per line") from error
    return fields


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder without permission
        return False


def _default_id(name: str, begin: float | None, end: float | None) -> str:
    if begin is None and end is None:
        return name
    return f"{name}#{begin or 0.0:.15g}-{'' if end is None else f'{end:.15g}'}"


def same_id(utterance: Utterance, line: int) -> str:
    """The error message for an utterance with the id of an earlier line."""
    if utterance.fields.get("id") is not None:
        return f"id {utterance.id!r} is also in line {line}; make it unique"
    return f"the same audio as line {line}; remove one of the two, or give each an `id`"


def _string(fields: Mapping[str, Any], key: str) -> str | None:
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise InputError(f"`{key}` is {value!r}; it must be a string")
    return value


def _seconds(fields: Mapping[str, Any], key: str) -> float | None:
    value = fields.get(key)
    if value is None or value == -1:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MAX_SECONDS:
        raise InputError(
            f"`{key}` is {value!r}; it must be seconds, at least 0 and below 1e9; for no value, write -1 or omit it"
        )
    return float(value)
