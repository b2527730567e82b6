"""Manifests: JSON Lines, one utterance a line, read into values and written atomically.

Every bad line is found, not only the first. Knows nothing of what is inside an audio file.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arkasr.data.languages import canonical_language
from arkasr.errors import InputError

TASKS = ("asr",)


@dataclass(frozen=True, slots=True)
class Utterance:
    """A piece of audio and what is said in it.

    Attributes:
        audio: absolute path.
        text: None where the manifest has none, or where its labels are withheld.
        begin_time: seconds; None = from the start of the file.
        end_time: seconds; None = to the end of the file.
        language: canonical English name.
        id: unique in its manifest.
        speaker: any label.
        duration: seconds of the piece; None = the manifest does not say.
        task: what is asked for.
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
    task: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a line, counted from 1."""

    line: int
    message: str


class ManifestError(InputError):
    """A manifest with bad lines; `problems` lists all of them."""

    def __init__(self, path: Path, problems: list[Problem]) -> None:
        first = problems[0]
        others = f" (and {len(problems) - 1} more; `arkasr data check {path}` lists all)" if len(problems) > 1 else ""
        super().__init__(f"{path}:{first.line}: {first.message}{others}")
        self.problems = problems


def read_manifest(path: str | Path) -> list[Utterance]:
    """All utterances of a manifest, in order; blank lines are passed over.

    Raises:
        ManifestError: some lines are bad; names the first and counts the others.
        InputError: there is no such file, or it holds no utterance.
    """
    utterances, problems = parse_manifest(path)
    if problems:
        raise ManifestError(Path(path), problems)
    return list(utterances.values())


def parse_manifest(path: str | Path) -> tuple[dict[int, Utterance], list[Problem]]:
    """The good lines of a manifest as utterances by line number, and what is wrong with the others.

    Raises:
        InputError: there is no such file, or it holds nothing.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such manifest")
    utterances: dict[int, Utterance] = {}
    problems: list[Problem] = []
    lines_by_id: dict[str, int] = {}
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                utterance = _parse_line(raw, path)
                if utterance.id in lines_by_id:
                    raise InputError(
                        f"id {utterance.id!r} stands in line {lines_by_id[utterance.id]} too; make it unique"
                    )
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
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    writing = path.with_name(f".{path.name}.writing")
    with writing.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    writing.replace(path)


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of JSON Lines that this package wrote, unchecked.

    Raises:
        InputError: a line is not JSON.
    """
    with Path(path).open(encoding="utf-8") as file:
        try:
            return [json.loads(line) for line in file]
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: not JSON Lines ({error.msg}); write it anew") from error


def _parse_line(raw: bytes, path: Path) -> Utterance:
    try:
        fields = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8; save the manifest as UTF-8") from error
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON ({error.msg} at column {error.colno}); write one JSON object a line") from error
    if not isinstance(fields, dict):
        raise InputError(f"expected a JSON object, found {type(fields).__name__}")
    name = fields.get("audio")
    if not isinstance(name, str) or not name:
        raise InputError("`audio` is missing; give the path of the audio file")
    audio = (path.parent / name).absolute()
    if not audio.is_file():
        raise InputError(f"`audio` {name}: no such file; paths are relative to the manifest's folder")
    begin, end = _seconds(fields, "begin_time"), _seconds(fields, "end_time")
    if end is not None and end <= (begin or 0.0):
        raise InputError(f"`end_time` {end} is not after `begin_time` {begin or 0.0}")
    duration = _seconds(fields, "duration")
    if duration == 0:
        raise InputError("`duration` is 0; give seconds, or leave it out")
    task = fields.get("task", "asr")
    if task not in TASKS:
        raise InputError(f"`task` {task!r} is not known; known is {', '.join(TASKS)}")
    language = _string(fields, "language")
    identity = fields.get("id")
    return Utterance(
        audio=audio,
        text=_string(fields, "text"),
        begin_time=begin,
        end_time=end,
        language=canonical_language(language) if language else None,
        id=str(identity) if identity is not None else _default_id(name, begin, end),
        speaker=_string(fields, "speaker"),
        duration=duration if duration is not None or end is None else end - (begin or 0.0),
        task=task,
        fields=fields,
    )


def _default_id(name: str, begin: float | None, end: float | None) -> str:
    return name if begin is None and end is None else f"{name}#{begin or 0.0:g}-{'' if end is None else f'{end:g}'}"


def _string(fields: Mapping[str, Any], key: str) -> str | None:
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise InputError(f"`{key}` is {value!r}; it must be a string")
    return value


def _seconds(fields: Mapping[str, Any], key: str) -> float | None:
    value = fields.get(key)
    if value is None or value == -1:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise InputError(f"`{key}` is {value!r}; it must be seconds, 0 or more (or -1 for the whole file)")
    return float(value)
