"""Tensors on disk by key, up to a number of bytes; for results that can be computed again.

Several processes may share a folder. An entry is one safetensors file that appears under its name only when complete.
It holds a checksum, and a damaged entry counts as missing. What the keys mean is left to others.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from arkasr.files import errors_named
from arkasr.recognizers.fingerprint import digest_of

CHECKSUM = "sha256"


class TensorStore:
    """A store that is full takes no new key, and removes none.

    Removing the oldest entries would not help if each epoch needs more entries than fit: each of them would be removed
    before its next use. Without removal, the same share of an epoch is found every time.

    Args:
        folder: of the entries; created for the first one. Its files count towards `limit_bytes`.
        limit_bytes: limit of all processes together.
        process: number of this process among `processes`, from 0.
        processes: number of processes that share the folder. Each may fill an equal part of the free space.
    """

    def __init__(self, folder: Path, limit_bytes: int, *, process: int = 0, processes: int = 1) -> None:
        self.folder = folder
        self._free_bytes = (limit_bytes - _bytes_in(folder)) // processes
        # One name per process: a kill leaves at most one incomplete file, and the next start overwrites it.
        self._writing = folder / f".{process}.writing"

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of a key, on the host; None if there is no intact entry."""
        try:
            with safe_open(self._path(key), "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
                checksum = (file.metadata() or {}).get(CHECKSUM)
        except (OSError, SafetensorError):
            return None
        return tensors if checksum == _checksum(key, tensors) else None

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Store the tensors of a key in place of earlier ones, unless they exceed the limit.

        Raises:
            OSError: the disk is full; it names the file.
        """
        path = self._path(key)
        with suppress(FileNotFoundError):  # somebody has removed the folder: the entry is lost, which does no harm
            room = self._free_bytes + _size(path)
            if sum(tensor.nbytes for tensor in tensors.values()) > room:
                return
            on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            content = safetensors.torch.save(on_host, {CHECKSUM: _checksum(key, on_host)})
            if len(content) > room:
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            with errors_named(self._writing):
                self._writing.write_bytes(content)
            self._free_bytes = room - len(content)
            self._writing.replace(path)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def _checksum(key: str, tensors: Mapping[str, Tensor]) -> str:
    return digest_of([key, *(part for item in sorted(tensors.items()) for part in item)])


def _bytes_in(folder: Path) -> int:
    """Size of all files in a folder, which other processes may change meanwhile."""
    return sum(_size(Path(parent, name)) for parent, _, names in os.walk(folder) for name in names)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
