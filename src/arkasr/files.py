"""Files that appear under their name when they are complete, whatever happens before."""

import os
from collections.abc import Iterable
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
        with writing.open("w", encoding="utf-8", errors=errors) as file:
            file.writelines(texts)
            file.flush()
            os.fsync(file.fileno())
        writing.replace(path)
    except OSError as error:
        if error.filename is None:  # a disk that is full does not say where
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        writing.unlink(missing_ok=True)
