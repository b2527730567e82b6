"""Integrity of a folder: SHA-256 checksums of its files, written once and verified before use."""

import hashlib
import os
from pathlib import Path

from arkasr.files import write_atomically

CHECKSUMS = "SHA256SUMS"


def add_checksums(folder: Path) -> None:
    """Write `SHA256SUMS` over all files of a folder, for `sha256sum --check`, and flush everything to the disk."""
    paths = sorted(folder.iterdir())
    write_atomically(folder / CHECKSUMS, [f"{_checksum(path)}  {path.name}\n" for path in paths])
    for path in [*paths, folder / CHECKSUMS, folder]:
        flush(path)


def damage_of(folder: Path, required: str) -> str | None:
    """The first mismatch between a folder and its checksums, for a message; None if the folder is intact.

    Args:
        folder: with the checksums.
        required: name of a file that must exist, even if the checksums do not list it.
    """
    listed = folder / CHECKSUMS
    if not listed.exists():
        return f"has no {CHECKSUMS}"
    lines = [line.partition("  ") for line in listed.read_text().splitlines()]
    checksums = {name: checksum for checksum, _, name in lines}
    present = {path.name for path in folder.iterdir()} - {CHECKSUMS}
    for name in sorted({required, *checksums, *present}):
        if name not in present:
            return f"{name} is missing"
        if name not in checksums:
            return f"{CHECKSUMS} does not list {name}"
        if _checksum(folder / name) != checksums[name]:
            return f"{name} does not match its checksum"
    return None


def flush(path: Path) -> None:
    """Flush a file or a folder to the disk, so that a power failure does not lose it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
