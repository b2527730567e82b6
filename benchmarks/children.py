"""Commands that a benchmark starts: their output, or the end of what they said where they fail."""

import subprocess
import sys
from collections.abc import Mapping, Sequence

LINES = 20


def output_of(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Standard output of a command; where it fails the benchmark ends with the end of its standard error."""
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    end_if_failed(command, finished.returncode, finished.stderr)
    return finished.stdout


def end_if_failed(command: Sequence[str], status: int, said: str) -> None:
    """Leave the benchmark where a command of its own has failed, with the end of what that said."""
    if status:
        tail = "\n".join(said.splitlines()[-LINES:])
        sys.exit(f"{' '.join(command)}\nended with status {status} and said at last:\n{tail}")
