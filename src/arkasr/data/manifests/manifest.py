"""Manifests: JSON Lines, one utterance a line, read into values and written atomically.

Every bad line is found, not only the first. Knows nothing of what is inside an audio file, nor of manifests that do
not fit into memory (`index.py`).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arkasr.data.languages import canonical_language
from arkasr.data.slices import missing_of
from arkasr.errors import InputError
from arkasr.files import write_atomically

TASKS = ("asr",)
MAX_SECONDS = 1e9  # thirty years: anything longer is no time in a file


@dataclass(frozen=True, slots=True)
class Utterance:
    """A piece of audio and what is said in it.

    Attributes:
        audio: absolute path, of a file or of a part of one (`slices.py`).
        text: None where the manifest has none, or where its labels are withheld.
        begin_time: seconds; None = from the start of the file.
        end_time: seconds; None = to the end of the file.
        language: canonical English name.
        id: unique in its manifest.
        speaker: any label.
        duration: seconds of the piece; None = the manifest does not say.
        fields: the line as it was read, unknown fields included, for passing through to outputs.
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
    """What is wrong with a line, counted from 1."""

    line: int
    message: str


class ManifestError(InputError):
    """A manifest with bad lines; `problems` lists all of them, or as many as were looked for."""

    def __init__(self, path: Path, problems: list[Problem], *, looked_for_all: bool = True) -> None:
        first = problems[0]
        number = f"{len(problems) - 1} {'' if looked_for_all else 'or '}more"
        others = f" (and {number}; `arkasr data check {path}` lists all)" if len(problems) > 1 else ""
        super().__init__(f"{path}:{first.line}: {first.message}{others}")
        self.problems = problems


def read_manifest(path: str | Path, *, check_files: bool = True, folder: Path | None = None) -> list[Utterance]:
    """All utterances of a manifest, in order; blank lines are passed over.

    Args:
        path: the manifest.
        check_files: look whether every audio file is there; costs a look-up a line, which network disks make long.
        folder: what audio paths are relative to; None = the manifest's own folder.

    Raises:
        ManifestError: some lines are bad; names the first and counts the others.
        InputError: there is no such file, or it holds no utterance.
    """
    utterances, problems = parse_manifest(path, check_files=check_files, folder=folder)
    if problems:
        raise ManifestError(Path(path), problems)
    return list(utterances.values())


def parse_manifest(
    path: str | Path, *, check_files: bool = True, folder: Path | None = None
) -> tuple[dict[int, Utterance], list[Problem]]:
    """The good lines of a manifest as utterances by line number, and what is wrong with the others.

    Raises:
        InputError: there is no such file, or it holds nothing.
    """
    path = Path(path)
    if not _is_file(path):
        raise InputError(f"{path}: no such manifest")
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
        raise InputError(f"{path}: the manifest is empty; give it one JSON object a line")
    return utterances, problems


def write_manifest(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON Lines; the file appears under its name when it is complete."""
    write_atomically(Path(path), (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of JSON Lines that this package wrote, unchecked.

    Raises:
        InputError: there is no such file, or a line is not JSON.
    """
    if not _is_file(Path(path)):
        raise InputError(f"{path}: no such file")
    with Path(path).open("rb") as file:
        try:
            return [json.loads(line) for line in file]
        except ValueError as error:
            raise InputError(f"{path}: not JSON Lines ({error}); write it anew") from error


def parse_line(raw: bytes, folder: Path, check_files: bool) -> Utterance:
    """One line of a manifest whose audio paths are relative to `folder`.

    Raises:
        InputError: what is wrong with the line, without its number.
    """
    fields = _json_of(raw)
    if not isinstance(fields, dict):
        raise InputError(f"expected a JSON object, found {type(fields).__name__}")
    name = fields.get("audio")
    if not isinstance(name, str) or not name:
        raise InputError("`audio` is missing; give the path of the audio file")
    audio = (folder / name).absolute()
    if check_files and (missing := missing_of(audio)):
        raise InputError(f"`audio` {name}: {missing}")
    begin, end = _seconds(fields, "begin_time"), _seconds(fields, "end_time")
    if end is not None and end <= (begin or 0.0):
        raise InputError(f"`end_time` {end} is not after `begin_time` {begin or 0.0}")
    duration = _seconds(fields, "duration")
    if duration == 0:
        raise InputError("`duration` is 0; give seconds, or leave it out")
    task = "asr" if fields.get("task") is None else fields["task"]
    if task not in TASKS:
        raise InputError(f"`task` {task!r} is not known; known is {', '.join(TASKS)}")
    language = _string(fields, "language")
    identity = fields.get("id")
    if isinstance(identity, bool | float | list | dict) or identity == "":
        raise InputError(f"`id` is {identity!r}; it must be a string or a whole number")
    return Utterance(
        audio=audio,
        text=_string(fields, "text"),
        begin_time=begin,
        end_time=end,
        language=canonical_language(language) if language else None,
        id=str(identity) if identity is not None else _default_id(name, begin, end),
        speaker=_string(fields, "speaker"),
        duration=duration if duration is not None or end is None else end - (begin or 0.0),
        fields=fields,
    )


def _json_of(raw: bytes) -> Any:
    try:
        fields = json.loads(raw.decode("utf-8-sig"))
        if b"\\u" in raw:  # JSON can spell halves of a surrogate pair, which no output file could hold
            json.dumps(fields, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON ({error.msg} at column {error.colno}); write one JSON object a line") from error
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8; save the manifest as UTF-8") from error
    except UnicodeEncodeError as error:
        raise InputError("holds half of a surrogate pair (\\ud800 to \\udfff); write the character itself") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON that can be read ({error}); write one plain JSON object a line") from error
    return fields


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False


def _default_id(name: str, begin: float | None, end: float | None) -> str:
    if begin is None and end is None:
        return name
    return f"{name}#{begin or 0.0:.15g}-{'' if end is None else f'{end:.15g}'}"


def same_id(utterance: Utterance, line: int) -> str:
    """What is wrong with an utterance whose id a line before it has."""
    if utterance.fields.get("id") is not None:
        return f"id {utterance.id!r} stands in line {line} too; make it unique"
    return f"the same audio as line {line}; drop one of the two, or give each an `id`"


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
        raise InputError(f"`{key}` is {value!r}; it must be seconds, 0 or more (or -1 for the whole file)")
    return float(value)
