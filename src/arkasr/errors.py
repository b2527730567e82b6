"""Errors that are the user's to mend. How they are shown is for the command line: one line, exit code 2."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input or usage.

    The message is one line that names the file, line or key and says what to do about it.
    """


class ReportedByFirstRank(InputError):  # noqa: N818
    """An error of the first of several processes, raised in the others too; the first one shows it."""


class Interrupted(BaseException):
    """A signal asked for an end, and nothing that was finished is lost.

    Not an `Exception`, as a keyboard interrupt is none: no library is to take it for an error of its own.

    Attributes:
        signal: its number.
    """

    def __init__(self, signal: int, message: str) -> None:
        super().__init__(message)
        self.signal = signal


def first_line_of(error: BaseException) -> str:
    """What a library's error says in its first line, the rest being advice to its own users."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nearest_of(name: str, known: Iterable[str]) -> str:
    """Advice for a name that is not known: the nearest one that is, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
