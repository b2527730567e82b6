"""The folder where this package keeps what it computes once and uses again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$ARKASR_CACHE`, else `$XDG_CACHE_HOME/arkasr`, else `~/.cache/arkasr`."""
    if root := os.environ.get("ARKASR_CACHE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "arkasr"
