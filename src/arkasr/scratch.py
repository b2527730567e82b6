"""A folder for temporary files that does not outlive its process for long, however the process ends.

The first use in a process removes what processes that were killed have left: the system lets go of a lock when its
holder ends, so that a folder whose lock can be had belongs to nobody.
"""

import fcntl
import os
import platform
import shutil
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import IO

# Of this machine, since locks may not be seen on others that share the folder.
PREFIX = f"arkasr-scratch-{platform.node()}-"
LOCK = ".lock"


def scratch_folder() -> Path:
    """The folder of this process, below the temporary folder (`$TMPDIR`); removed when the process ends."""
    return Path(_held()[0].name)


@cache
def _held() -> tuple[TemporaryDirectory[str], IO[str] | None]:
    for left in Path(gettempdir()).glob(f"{PREFIX}*"):
        # Another's, in use, gone by now, without the lock that it had, or on a file system without locks.
        with suppress(OSError):
            if left.lstat().st_uid == os.getuid():
                with _locked(left, "r+"):
                    shutil.rmtree(left)
    while True:
        folder = TemporaryDirectory(prefix=PREFIX)
        try:
            return folder, _locked(Path(folder.name), "w")
        except (BlockingIOError, FileNotFoundError):  # another process has just taken it for left behind
            continue
        except OSError:  # no locks here: nobody will take it for left behind, not even after a kill
            return folder, None


def _locked(folder: Path, mode: str) -> IO[str]:
    """The lock of a folder, held until it is closed or the process ends; one that is forked off does not hold it.

    Raises:
        OSError: a process holds it, the folder is no longer there, or its file system has no locks.
    """
    file = (folder / LOCK).open(mode)
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (folder / LOCK).stat()
    return file
