"""One run at a time in a folder.

Rank 0 of the run locks its folder. The contents of the folder are left to others.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from arkasr.errors import InputError
from arkasr.locks import LockHeldError, LocksUnsupportedError, locked


@contextmanager
def lock_run_folder(folder: Path, on_warning: Callable[[str], None]) -> Iterator[None]:
    """Keep other runs out of a folder while the block runs. The folder is created if it does not exist.

    The locked file is `.lock`. It stays there after the run, without a lock.

    Args:
        folder: the run's folder.
        on_warning: called with one line of text if the file system has no locks; the block then runs without one.

    Raises:
        InputError: another run uses the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / ".lock", wait=False))
        except LockHeldError as error:
            raise InputError(
                f"{folder}: another run uses this folder ({error.holder or 'it has just started'}); wait for it, "
                "stop it, or choose another --output"
            ) from error
        except LocksUnsupportedError as error:
            on_warning(f"{folder}: cannot be locked ({error.strerror}); make sure that no other run writes here")
        yield
