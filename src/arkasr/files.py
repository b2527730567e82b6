"""Files that appear under their name when they are complete, or grow line by line, whatever happens before."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, texts: Iterable[str], *, errors: str = "strict") -> None:
    """Write texts one after the other into a new file that takes the place of `path` when all are written.

    Args:
        path: its folder is made where there is none.
        texts: may be computed as they are written; if that fails nothing is left behind.
        errors: what becomes of characters that UTF-8 cannot hold, as for `open`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writing = path.with_name(f".{path.name}.writing")
    try:
        with errors_named(path), writing.open("w", encoding="utf-8", errors=errors) as file:
            file.writelines(texts)
            file.flush()
            os.fsync(file.fileno())
        writing.replace(path)
    finally:
        writing.unlink(missing_ok=True)


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines, each with its end, behind those of a file; they are on the disk when this returns."""
    with errors_named(path), path.open("a", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


def whole_lines(path: Path, *, mend: bool = False) -> list[str]:
    """The lines of a file that has grown by `append_lines`; one that a kill cut short is left out.

    Args:
        path: none = no lines.
        mend: take what was cut short out of the file, too, so that it may grow on.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if mend and whole < len(content):
        os.truncate(path, whole)
    return content[:whole].decode("utf-8").split("\n")[:-1]


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Let errors of the system say `path` where they do not say a file: that a disk is full, or has no locks."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
