"""Refuses outputs that would overwrite an input of the same command."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from arkasr.data.slices import containing_file
from arkasr.errors import InputError


def refuse_to_replace(inputs: Iterable[Path | int], outputs: Iterable[Path]) -> None:
    """Check that no output is the same file as an input, directly or through a symbolic or hard link.

    Args:
        inputs: paths, which may be slices (`slices.py`), or file descriptors; read only if an output exists.
        outputs: paths to be written.

    Raises:
        InputError: names the output, and the input if its name differs.
    """
    existing = {file_id: output for output in outputs if (file_id := _file_id(output))}
    if not existing:
        return
    for path in dict.fromkeys(item if isinstance(item, int) else containing_file(item) for item in inputs):
        if (file_id := _file_id(path)) and (output := existing.get(file_id)):
            input_name = "" if output == path or isinstance(path, int) else f" ({path})"
            raise InputError(f"{output}: is an input of this command{input_name}; name another output")


def files_of_model(name: str) -> Iterator[Path]:
    """All files below a model's folder; none for a hub name."""
    return Path(name).rglob("*")


def _file_id(path: Path | int) -> tuple[int, int] | None:
    """Device and inode, links followed; None if there is no such file."""
    with suppress(OSError, ValueError):
        stat = os.fstat(path) if isinstance(path, int) else path.stat()
        return stat.st_dev, stat.st_ino
    return None
