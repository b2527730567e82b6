"""The form of `inputs.json`, in which a run keeps what it has used. Knows nothing of what is compared with it."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from arkasr.errors import InputError

Record = dict[str, dict[str, Any]]


class _Set(BaseModel):
    """A set as `data/manifests/identity.py` describes it: every other aspect is a text of checksums."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, str]
    utterances: int
    size: str
    order: int = 0


class _Folder(BaseModel):
    """Of a folder's files, by name: bytes and second of the last change, or nothing."""

    model_config = ConfigDict(strict=True, extra="forbid")
    files: dict[str, list[int]]


class _Hub(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    commit: str | None


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    sets: dict[str, _Set]
    models: dict[str, _Folder | _Hub]


def read_record(path: Path) -> Record:
    """What is recorded; nothing where there is no file, as in runs of before it was kept.

    Returns:
        By kind, `sets` and `models`, the entry of each name.

    Raises:
        InputError: the file may not be read, or is damaged.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {"sets": {}, "models": {}}
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; check path and permissions") from error
    try:
        _Record.model_validate_json(content)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"][:2]))
        where = f" ({place})" if place else ""
        raise InputError(
            f"{path}: is damaged{where}; delete it, and what is there now is taken for what is still to be computed"
        ) from error
    record: Record = json.loads(content)
    return record
