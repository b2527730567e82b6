"""A recipe file and `--set` overrides into a checked `Recipe`; every mistake is one line that names the key."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from arkasr.errors import InputError
from arkasr.settings import Settings

AnySettings = TypeVar("AnySettings", bound=Settings)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: there is no file, or it is not YAML, or not a mapping.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected `key: value` lines at the top, found {type(document).__name__}")
    return _unshared(document)


def _unshared(document: Any) -> Any:
    """A copy in which what YAML anchors share is apart, so that an override of one place leaves the others alone."""
    if isinstance(document, dict):
        return {key: _unshared(value) for key, value in document.items()}
    return [_unshared(value) for value in document] if isinstance(document, list) else document


def apply_overrides(document: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set `key.sub=value` pairs, the value read as YAML; keys are checked later, with the rest.

    Raises:
        InputError: an override has no `=`, or goes through something that is not a mapping or a list.
    """
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator:
            raise InputError(f"--set {override}: expected key.sub=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"--set {override}: the value is not YAML; put it in quotes") from error
        *parents, last = path.split(".")
        place: Any = document
        for key in parents:
            place = _child(place, key, override)
        if isinstance(place, list):
            place[_index(place, last, override)] = value
        elif isinstance(place, dict):
            place[last] = value
        else:
            raise InputError(f"--set {override}: {path} goes through a plain value")
    return document


def _index(place: list[Any], key: str, override: str) -> int:
    if not key.isdecimal() or int(key) >= len(place):
        raise InputError(f"--set {override}: {key!r} is not a place in a list of {len(place)}, counted from 0")
    return int(key)


def _child(place: Any, key: str, override: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, key, override)]
    if not isinstance(place, dict):
        raise InputError(f"--set {override}: there is nothing under {key!r}")
    if place.get(key) is None:
        place[key] = {}
    return place[key]


def parse(settings: type[AnySettings], document: dict[str, Any], source: str) -> AnySettings:
    """Check a document against its settings class.

    Raises:
        InputError: the first mistake, with its key and, for an unknown key, the nearest known one.
    """
    try:
        return settings.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{source}: {_describe(error.errors()[0], document)}") from error


def load_settings(settings: type[AnySettings], path: Path, overrides: Sequence[str] = ()) -> AnySettings:
    """Read, override and check a file.

    Raises:
        InputError: the file or an override is wrong.
    """
    return parse(settings, apply_overrides(read_yaml(path), overrides), str(path))


def _describe(error: Any, document: Any) -> str:
    # Discriminators of unions are in the location but not in the file.
    keys: list[str] = []
    place = document
    for key in error["loc"]:
        if isinstance(place, (dict, list)) and (key in place if isinstance(place, dict) else isinstance(key, int)):
            place = place[key]
            keys.append(str(key))
        elif key == error["loc"][-1]:
            keys.append(str(key))
    where = ".".join(keys)
    message = error["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
