"""The outputs of a command: writable, written by nobody else, and none of its inputs; known before any work is done."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from arkasr.data.slices import containing_file
from arkasr.errors import InputError
from arkasr.files import errors_named, hidden_beside
from arkasr.locks import LockHeldError, LocksUnsupportedError, locked


@contextmanager
def reserve_outputs(outputs: Sequence[Path], *, inputs: Iterable[Path | int] = ()) -> Iterator[None]:
    """Make sure that files can be written, and keep other commands from writing them while the block runs.

    Folders are created. A hidden lock file lies beside each output until the block ends.

    Args:
        outputs: files to be written.
        inputs: as in `refuse_to_replace`.

    Raises:
        InputError: an output is an input or a folder, its folder cannot be written, or another command writes it. If
            the file system has no locks, that is not noticed.
        OSError: the system refuses the output; names it.
    """
    refuse_to_replace(inputs, outputs)
    with ExitStack() as stack:
        for output in outputs:
            stack.enter_context(_reserved(output))
        yield


@contextmanager
def _reserved(output: Path) -> Iterator[None]:
    lock = hidden_beside(output, ".lock")
    with ExitStack() as stack:
        with errors_named(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            if output.is_dir():
                raise InputError(f"{output}: is a folder; name a file")
            if not os.access(output.parent, os.W_OK):
                raise InputError(f"{output}: the folder cannot be written; check its permissions")
            try:
                stack.enter_context(locked(lock, wait=False))
            except (LockHeldError, FileNotFoundError) as error:
                holder = getattr(error, "holder", "") or "another command"
                raise InputError(f"{output}: {holder} is writing it; wait for it, or name another output") from error
            except LocksUnsupportedError:
                pass
        stack.callback(lock.unlink, missing_ok=True)
        yield


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
