"""The schema of `inputs.json`. `inputs.py` compares its entries with the present inputs."""

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
        key = ".".join(map(str, error.errors()[0]["loc"][:2]))
        at_key = f" ({key})" if key else ""
        raise InputError(
            f"{path}: is damaged{at_key}; delete it to accept the present inputs for the rest of the run"
        ) from error
    record: Record = json.loads(content)
    return record
