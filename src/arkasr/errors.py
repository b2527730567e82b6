"""Errors that are the user's to mend. How they are shown is for the command line: one line, exit code 2."""


class InputError(ValueError):
    """Bad input or usage.

    The message is one line that names the file, line or key and says what to do about it.
    """
