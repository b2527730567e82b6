"""The command line as a user starts it."""

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


def clean_english(cache):
    """The smoke run's test set; another one in the cache has a single utterance, which is nothing to test on."""
    return max(cache.glob("synthetic-*/en-clean.jsonl"), key=lambda path: path.stat().st_size)
