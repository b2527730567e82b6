"""Checkpoint integrity: errors that name a missing, misshaped or truncated part before the model is used."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from arkasr.errors import InputError


def refuse_incomplete(name: str | PathLike, loading_info: Mapping[str, Any]) -> None:
    """Check that every weight was in the file with the right shape.

    Args:
        name: folder or hub name, for the message.
        loading_info: from `from_pretrained(output_loading_info=True)`.

    Raises:
        InputError: names the first weight, in the order of the model's keys, that is missing or misshaped.
    """
    if missing := sorted(loading_info["missing_keys"]):
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(f"model {name}: has no weight {missing[0]}{others}; download the checkpoint again")
    if mismatched := sorted(loading_info["mismatched_keys"]):
        key, found, expected = mismatched[0]
        others = f" (and {len(mismatched) - 1} more)" if len(mismatched) > 1 else ""
        raise InputError(
            f"model {name}: weight {key} is {list(found)} in the file, config.json asks for {list(expected)}{others}; "
            "take weights and config.json from the same checkpoint"
        )


def first_broken_file(folder: str | Path) -> Path | None:
    """The first safetensors file of a folder that cannot be opened, or None."""
    for path in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError):
            return path
    return None
