"""An exclusive lock on a file, which excludes other processes and other threads.

The kernel releases it when its holder ends, also by SIGKILL. What the lock protects is left to the caller.
"""

import fcntl
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EAGAIN, EINVAL, ENOLCK, ENOSYS, EOPNOTSUPP
from pathlib import Path

HELD = (EACCES, EAGAIN)  # POSIX allows either
UNSUPPORTED = (EINVAL, ENOLCK, ENOSYS, EOPNOTSUPP)

_thread_locks: dict[str, threading.Lock] = {}
os.register_at_fork(after_in_child=_thread_locks.clear)  # the threads that hold them are not forked


class LockHeldError(OSError):
    """Another process or thread holds the lock.

    Attributes:
        holder: process and machine, in words; empty if the holder has not written them yet.
    """

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(EAGAIN, f"locked by {holder or 'another process'}", str(path))
        self.holder = holder


class LocksUnsupportedError(OSError):
    """The file system has no locks."""


@contextmanager
def locked(path: Path, *, wait: bool = True, create: bool = True) -> Iterator[None]:
    """Hold the lock of a file while the block runs. A forked child does not hold it.

    The block must not open `path`: the kernel releases the lock when this process closes any descriptor of the file.

    Args:
        path: the file. It is not removed. Its text names the process and machine that locked it last.
        wait: until the present holder releases the lock.
        create: the file, if it does not exist.

    Raises:
        LockHeldError: the lock is held, and `wait` is False.
        LocksUnsupportedError: the file system has no locks.
        FileNotFoundError: `create` is False and there is no file, or it was removed before it was locked.
    """
    with _locked_between_threads(path, wait), path.open("a+" if create else "r+", encoding="utf-8") as file:
        try:
            # Not `flock`: a data worker that outlives a killed run by seconds would still hold it.
            fcntl.lockf(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD:
                file.seek(0)
                raise LockHeldError(path, file.read().strip()) from error
            if error.errno in UNSUPPORTED:
                raise LocksUnsupportedError(error.errno, error.strerror, str(path)) from error
            raise
        path.stat()
        file.truncate(0)
        file.write(f"{_this_process()}\n")
        file.flush()
        yield


@contextmanager
def _locked_between_threads(path: Path, wait: bool) -> Iterator[None]:
    """Excludes other threads of this process, which `lockf` cannot: its locks belong to the whole process."""
    lock = _thread_locks.setdefault(str(path.absolute()), threading.Lock())
    if not lock.acquire(blocking=wait):
        raise LockHeldError(path, _this_process())
    try:
        yield
    finally:
        lock.release()


def _this_process() -> str:
    return f"process {os.getpid()} on {platform.node()}"
