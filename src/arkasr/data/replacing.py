"""An output must not replace what the command reads, under whatever name."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from arkasr.data.slices import file_of
from arkasr.errors import InputError


def refuse_to_replace(inputs: Iterable[Path | int], outputs: Iterable[Path]) -> None:
    """See that no output is an input: under its own name, or through a symbolic or a hard link.

    Args:
        inputs: what is read, parts of files (`slices.py`) among them, or the descriptor of what has no name; looked at
            only if an output is there already.
        outputs: what is to be written.

    Raises:
        InputError: names the output and, where that is another name, the input.
    """
    there = {place: output for output in outputs if (place := _place(output))}
    if not there:
        return
    for path in dict.fromkeys(item if isinstance(item, int) else file_of(item) for item in inputs):
        if (place := _place(path)) and (output := there.get(place)):
            other = "" if output == path or isinstance(path, int) else f" ({path})"
            raise InputError(f"{output}: is an input of this command{other}; name another output")


def files_of_model(name: str) -> Iterator[Path]:
    """All in the folder of a model, to any depth; nothing of a hub name."""
    return Path(name).rglob("*")


def _place(path: Path | int) -> tuple[int, int] | None:
    """Where a file is on the disk, links followed; None if there is none."""
    with suppress(OSError, ValueError):
        found = os.fstat(path) if isinstance(path, int) else path.stat()
        return found.st_dev, found.st_ino
    return None
