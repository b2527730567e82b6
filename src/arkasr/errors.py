"""Errors that are the user's to mend. Knows nothing of how they are shown; the command line prints one line and exits 2."""


class InputError(ValueError):
    """Bad input or usage.

    The message is one line that names the file, line or key and says what to do about it.
    """
