"""Commands that a benchmark starts. If one fails, the benchmark ends with the last lines of its standard error."""

import subprocess
import sys
from collections.abc import Mapping, Sequence

LAST_LINES = 20


def output_of(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Run the command and return its standard output."""
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    exit_if_failed(command, finished.returncode, finished.stderr)
    return finished.stdout


def exit_if_failed(command: Sequence[str], status: int, stderr: str) -> None:
    if status:
        tail = "\n".join(stderr.splitlines()[-LAST_LINES:])
        sys.exit(f"{' '.join(command)}\nfailed with status {status}. Its last lines were:\n{tail}")
