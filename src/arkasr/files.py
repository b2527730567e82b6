"""Files and folders that appear under their name only when complete, and files that grow by complete lines."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST_NAME_BYTES = 255  # of most file systems


@contextmanager
def atomic_path(path: Path, *, writer: str = "") -> Iterator[Path]:
    """A temporary path for a file or folder, which takes the name `path` when the block ends without an error.

    The block creates the file or folder at this path. It is removed after an error. If the process is killed, the next
    call with the same `path` and `writer` removes it.

    Args:
        path: the final name. An existing file is replaced. An existing folder must be empty. Parents are created.
        writer: a part of the temporary name; needed if several machines may write the same file at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writing = hidden_beside(path, f".{writer}.writing" if writer else ".writing")
    _remove(writing)
    try:
        yield writing
        writing.replace(path)
    finally:
        _remove(writing)


def write_atomically(path: Path, texts: Iterable[str], *, errors: str = "strict") -> None:
    """Write texts one after the other into a file that replaces `path` when it is complete and on the disk.

    Args:
        path: its folder is created if it does not exist.
        texts: may be computed while they are written; if that fails, `path` stays as it was.
        errors: what `open` does with characters that UTF-8 cannot encode.
    """
    with (
        atomic_path(path) as writing,
        errors_named(path),
        writing.open("w", encoding="utf-8", errors=errors) as file,
    ):
        file.writelines(texts)
        file.flush()
        os.fsync(file.fileno())


def hidden_beside(path: Path, suffix: str) -> Path:
    """A hidden path in the same folder, for a temporary file of `path`: its name, or if that is too long, a hash of it.

    Args:
        path: the file to which the temporary file belongs.
        suffix: begins with a dot.
    """
    name = f".{path.name}{suffix}"
    if len(os.fsencode(name)) > LONGEST_NAME_BYTES:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}{suffix}"
    return path.with_name(name)


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Append lines, each with its line end, to a file; they are on the disk when this returns."""
    with errors_named(path), path.open("a", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


def complete_lines(path: Path, *, mend: bool = False) -> list[str]:
    """The lines of a file that `append_lines` wrote, without a last one that a kill has cut short.

    Args:
        path: no file = no lines.
        mend: remove the incomplete line from the file as well, so that lines can be appended.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    complete = content.rfind(b"\n") + 1
    if mend and complete < len(content):
        os.truncate(path, complete)
    return content[:complete].decode("utf-8").split("\n")[:-1]


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Add `path` to system errors that name no file, such as a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
