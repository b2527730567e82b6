"""One run at a time in a folder, by a lock that the kernel releases however its holder ends.

Knows nothing of what is in the folder, nor of the holder's other processes, of which only the first one asks.
"""

import errno
import fcntl
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from arkasr.errors import InputError

HELD = (errno.EACCES, errno.EAGAIN)  # which of them depends on the file system


@contextmanager
def sole_use(folder: Path, on_trouble: Callable[[str], None]) -> Iterator[None]:
    """Keep other runs out of a folder, which is made where there is none, inside the `with` block.

    `.lock` stays there and means nothing by itself; it holds who locked it last.

    Args:
        folder: of the run.
        on_trouble: told in a line where the file system has no locks.

    Raises:
        InputError: another run is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+", encoding="utf-8") as file:
        try:
            # Not `flock`: a data worker that outlives a killed run by seconds would hold on to it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD:
                file.seek(0)
                raise InputError(
                    f"{folder}: another run is at work here ({file.read().strip() or 'it has just begun'}); wait for "
                    "it, end it, or choose another --output"
                ) from error
            on_trouble(f"{folder}: cannot be locked ({error.strerror}); see to it that no other run writes here")
        else:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n")
            file.flush()
        yield
