"""Read a YAML file and `--set` overrides into a settings class. Every mistake is one line that names the key.

What the keys mean is left to the settings classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from arkasr import plain_yaml
from arkasr.errors import InputError
from arkasr.settings import Settings

AnySettings = TypeVar("AnySettings", bound=Settings)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: the file does not exist, is not YAML, or is not a mapping.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        document = plain_yaml.load(path.read_text(encoding="utf-8"))
    except (plain_yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected `key: value` lines at the top, found {type(document).__name__}")
    return _unshared(document)


def _unshared(document: Any) -> Any:
    """A copy without shared parts. YAML anchors share them, and an override must change one place only."""
    if isinstance(document, dict):
        return {key: _unshared(value) for key, value in document.items()}
    return [_unshared(value) for value in document] if isinstance(document, list) else document


def apply_overrides(document: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set `key.sub=value` pairs; values are YAML. Keys are checked later, with those of the file.

    Raises:
        InputError: an override has no `=`, or one of its parents is not a mapping or a list.
    """
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator:
            raise InputError(f"--set {override}: expected key.sub=value")
        try:
            value = plain_yaml.load(text)
        except plain_yaml.YAMLError as error:
            raise InputError(f"--set {override}: the value is not YAML; put it in quotes") from error
        *parents, last = path.split(".")
        parent: Any = document
        for key in parents:
            parent = _child(parent, key, override)
        if isinstance(parent, list):
            parent[_index(parent, last, override)] = value
        elif isinstance(parent, dict):
            parent[last] = value
        else:
            raise InputError(f"--set {override}: a part of {path} is a plain value, which has no keys")
    return document


def _index(parent: list[Any], key: str, override: str) -> int:
    if not key.isdecimal() or int(key) >= len(parent):
        raise InputError(f"--set {override}: {key!r} is not an index of a list of {len(parent)}, counted from 0")
    return int(key)


def _child(parent: Any, key: str, override: str) -> Any:
    if isinstance(parent, list):
        return parent[_index(parent, key, override)]
    if not isinstance(parent, dict):
        raise InputError(f"--set {override}: the parent of {key!r} is a plain value, which has no keys")
    if parent.get(key) is None:
        parent[key] = {}
    return parent[key]


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
        InputError: the first mistake in the file or an override.
    """
    return parse(settings, apply_overrides(read_yaml(path), overrides), str(path))


def _describe(error: Any, document: Any) -> str:
    # pydantic's location also names the discriminator of a union, which is not a key of the file.
    keys: list[str] = []
    parent = document
    for key in error["loc"]:
        if isinstance(parent, (dict, list)) and (key in parent if isinstance(parent, dict) else isinstance(key, int)):
            parent = parent[key]
            keys.append(str(key))
        elif key == error["loc"][-1]:
            keys.append(str(key))
    where = ".".join(keys)
    message = error["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
