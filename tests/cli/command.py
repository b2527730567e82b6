"""Starts the command line as a user does."""

import os
import subprocess
import sys
from pathlib import Path

ARKASR = [sys.executable, "-m", "arkasr"]
ROOT = Path(__file__).resolve().parents[2]


def arkasr(*arguments, cache):
    environment = os.environ | {"ARKASR_CACHE": str(cache), "COLUMNS": "100"}
    command = [*ARKASR, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def english_test_set(cache):
    """The English test set of the smoke run. The cache may also have one of a single utterance."""
    return max(cache.glob("synthetic-*/en-clean.jsonl"), key=lambda path: path.stat().st_size)
