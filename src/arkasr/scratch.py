"""A folder for temporary files that is removed soon after its process ends, also after SIGKILL.

Each process locks its folder. The first use in a process removes the folders whose lock nobody holds.
"""

import os
import platform
import shutil
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from arkasr.locks import LockHeldError, locked

# Names the machine, because a lock may not be visible on other machines that share the temporary folder.
PREFIX = f"arkasr-scratch-{platform.node()}-"
LOCK = ".lock"


def scratch_folder() -> Path:
    """The folder of this process, below the temporary folder (`$TMPDIR`); removed when the process ends."""
    return Path(_own_folder()[0].name)


@cache
def _own_folder() -> tuple[TemporaryDirectory[str], ExitStack]:
    """The folder, and the lock that is held as long as the process or this value lives."""
    for folder in Path(gettempdir()).glob(f"{PREFIX}*"):
        # Another user's, in use, removed by now, without its lock file, or on a file system without locks.
        with suppress(OSError):
            if folder.lstat().st_uid == os.getuid():
                with locked(folder / LOCK, wait=False, create=False):
                    shutil.rmtree(folder)
    while True:
        own, lock = TemporaryDirectory(prefix=PREFIX), ExitStack()
        try:
            lock.enter_context(locked(Path(own.name) / LOCK, wait=False))
        except (LockHeldError, FileNotFoundError):  # another process is removing it, because it was not locked yet
            continue
        except OSError:  # no locks here: no process removes the folder after a kill
            pass
        return own, lock
