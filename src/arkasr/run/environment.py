"""Versions, commit and hardware of a run, for `environment.json`."""

import json
import os
import platform
import shutil
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from arkasr import processes
from arkasr.recognizers.fingerprint import processor_name
from arkasr.run.folder import write_json

PACKAGES = ("arkasr", "torch", "transformers", "accelerate", "tokenizers", "numpy", "soundfile", "av", "soxr", "jiwer")


def describe_environment() -> dict[str, Any]:
    """Versions, commit of a source checkout, processor and accelerators."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "processor_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "accelerators": gpus,
        "processes": processes.world_size(),
    }


class RunSession:
    """The environment and duration of one session: from one start of a run to its end.

    Args:
        path: `environment.json`; entries of earlier sessions are kept under `earlier_sittings`.
        writes: whether this process writes the file.
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self._path = path
        self._writes = writes
        self._started = time.monotonic()
        self._environment = describe_environment()
        self._earlier: list[dict[str, Any]] = []
        if path.exists():
            last = json.loads(path.read_text(encoding="utf-8"))
            self._earlier = [*last.pop("earlier_sittings", []), last]
        self._seconds_before = float(self._earlier[-1].get("seconds", 0.0)) if self._earlier else 0.0
        self.save()

    def save(self) -> None:
        """Write the file; `seconds` is the sum over all sessions, each up to its last save."""
        if not self._writes:
            return
        seconds = self._seconds_before + time.monotonic() - self._started
        document = self._environment | {"seconds": seconds}
        write_json(self._path, document | ({"earlier_sittings": self._earlier} if self._earlier else {}))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    if shutil.which("git") is None:
        return None
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or None
