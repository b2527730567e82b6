"""The schema of `inputs.json`. `inputs.py` compares it with what is there now."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from arkasr.errors import InputError

Record = dict[str, dict[str, Any]]


class _Set(BaseModel):
    """A set as `data/manifests/identity.py` describes it; extra fields are strings of checksums."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, str]
    utterances: int
    size: str
    order: int = 0


class _Folder(BaseModel):
    """Files of a model folder by name: size in bytes and modification time in seconds, or an empty list."""

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
    """Read `inputs.json`; an empty record if there is no file, as in runs of older versions.

    Returns:
        Entries by kind (`sets`, `models`) and name.

    Raises:
        InputError: the file cannot be read or is damaged.
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
            f"{path}: is damaged{where}; delete it to accept the present inputs for what is still to be computed"
        ) from error
    record: Record = json.loads(content)
    return record
