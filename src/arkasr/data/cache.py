"""Where this package keeps what it has made once and will want again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$ARKASR_CACHE`, or else `$XDG_CACHE_HOME/arkasr` or `~/.cache/arkasr`."""
    if root := os.environ.get("ARKASR_CACHE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "arkasr"
