"""Errors that the user can fix. The command line shows them in one line and exits with code 2."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input or usage.

    The message is one line that names the file, line or key and the remedy.
    """


class ReportedByFirstRank(InputError):  # noqa: N818
    """An error that rank 0 reports; the other ranks raise this class and print nothing."""


class Interrupted(BaseException):
    """A signal stopped the run; finished work is kept.

    Derived from `BaseException`, like `KeyboardInterrupt`, so that no library handles it as an error.

    Attributes:
        signal: number of the signal.
    """

    def __init__(self, signal: int, message: str) -> None:
        super().__init__(message)
        self.signal = signal


def first_line_of(error: BaseException) -> str:
    """First line of a library's error; the other lines are advice for its own users."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nearest_of(name: str, known: Iterable[str]) -> str:
    """A remedy for an unknown name: the nearest known name, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
