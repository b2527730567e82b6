"""Tar shards in the WebDataset convention as manifest lines: `KEY.flac` beside `KEY.json` or `KEY.txt` in one tar.

Each tar is gone through once; its audio stays where it is, and a line says at which bytes (`slices.py`).
"""

import json
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arkasr.data.audio import AUDIO_SUFFIXES, duration_of
from arkasr.data.slices import Slice
from arkasr.errors import InputError

# WebDataset's own rule: what is before the first dot of a member's last name is its key.
_MEMBER = re.compile(r"(?P<key>(?:.*/)?[^/.]+)\.(?P<suffix>[^/]+)")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2", ".tar.lz4")
_LABEL_SUFFIXES = ("json", "txt")


@dataclass
class _Sample:
    """The members of one key."""

    key: str
    audio: Slice | None = None
    text: str | None = None
    fields: dict[str, Any] | None = None

    @property
    def labelled(self) -> bool:
        return self.text is not None or self.fields is not None


def find_shards(sources: Sequence[Path]) -> list[Path]:
    """The tars that are named, and those in the folders that are named, in the order of their names.

    Raises:
        InputError: a source is not there or holds no tar, or a tar is compressed.
    """
    shards: list[Path] = []
    for source in sources:
        found = sorted(path for path in source.iterdir() if path.is_file()) if source.is_dir() else [source]
        compressed = next((path for path in found if path.name.endswith(_COMPRESSED)), None)
        if compressed is not None:
            raise InputError(
                f"{compressed}: is compressed, so that no member can be read by itself; decompress it first"
            )
        if not source.exists():
            raise InputError(f"{source}: no such tar or folder")
        tars = [path for path in found if path.suffix == ".tar"]
        if not tars:
            raise InputError(f"{source}: no .tar here; name tar shards or a folder of them")
        shards += tars
    return shards


def rows_of_shards(
    shards: Sequence[Path],
    folder: Path,
    on_shard: Callable[[int], None] | None = None,
    on_unreadable: Callable[[str], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Manifest rows of all samples, in the order in which they stand in the tars.

    Args:
        shards: uncompressed tars.
        folder: of the manifest that the rows are for; shards below it are named relative to it.
        on_shard: told of every tar that has been gone through.
        on_unreadable: told why audio cannot be measured; its row has no `duration`, so that training sets it aside.

    Raises:
        InputError: a tar cannot be read or is cut off, a sample is not whole, or no audio at all can be measured;
            names tar and key.
    """
    labelled: str | None = None
    unlabelled: str | None = None
    unreadable: str | None = None
    heard = False
    for shard in shards:
        name = _name_of(shard, folder)
        for sample in _samples(shard):
            where = f"{shard}: {sample.key}"
            if sample.audio is None:
                raise InputError(f"{where} has no audio ({', '.join(AUDIO_SUFFIXES)}); write the shard anew")
            if sample.labelled:
                labelled = where
            else:
                unlabelled = where
            if labelled and unlabelled:
                raise InputError(f"{unlabelled} has no .json or .txt, but {labelled} has one; write the shard anew")
            row = _row(sample, sample.audio, name)
            try:
                row |= _duration(sample, sample.audio)
                heard = True
            except InputError as error:
                unreadable = f"{where}: {error}"
                if on_unreadable:
                    on_unreadable(unreadable)
            yield row
        if on_shard:
            on_shard(1)
    if not labelled and not unlabelled:
        raise InputError(f"{shards[0]}: no audio ({', '.join(AUDIO_SUFFIXES)}) in it or in any other shard")
    if unreadable and not heard:
        raise InputError(unreadable)


def _row(sample: _Sample, audio: Slice, name: str) -> dict[str, Any]:
    fields = dict(sample.fields or {})
    fields["audio"] = f"{name}:{audio.offset}:{audio.size}"
    fields.setdefault("id", f"{name.removesuffix('.tar')}/{sample.key}")
    if sample.text is not None:
        fields.setdefault("text", sample.text)
    return fields


def _duration(sample: _Sample, audio: Slice) -> dict[str, float]:
    """Seconds of a sample as measured, where it does not say them itself."""
    said = sample.fields or {}
    if said.get("duration") is not None or said.get("end_time") not in (None, -1):
        return {}
    begin = said.get("begin_time")
    seconds = duration_of(f"{audio.file}:{audio.offset}:{audio.size}")
    return {"duration": round(seconds - max(begin if isinstance(begin, int | float) else 0, 0), 6)}


def _samples(shard: Path) -> Iterator[_Sample]:
    """The members of a tar by key; those of one key stand together."""
    seen: set[str] = set()
    sample: _Sample | None = None
    for tar, name, member in _members(shard):
        found = _MEMBER.fullmatch(name.removeprefix("./"))
        if found is None:
            continue
        key, suffix = found["key"], found["suffix"].lower()
        suffix = suffix.rsplit(".", 1)[-1]
        is_audio = f".{suffix}" in AUDIO_SUFFIXES
        if not is_audio and suffix not in _LABEL_SUFFIXES:
            continue
        if not member.isreg() or member.issparse():
            raise InputError(
                f"{shard}: {name} is a link, or a file with holes; write the shard anew (tar --dereference)"
            )
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            if key in seen:
                raise InputError(f"{shard}: {key} stands in it twice; members of one key must stand together, once")
            seen.add(key)
            sample = _Sample(key)
        if is_audio and sample.audio is not None:
            raise InputError(f"{shard}: {key} has several audio members; leave one")
        if is_audio:
            sample.audio = Slice(shard, member.offset_data, member.size)
        elif suffix == "txt":
            sample.text = _text(tar, member, shard).strip()
        else:
            sample.fields = _fields(tar, member, shard)
    if sample is not None:
        yield sample


def _members(shard: Path) -> Iterator[tuple[tarfile.TarFile, str, tarfile.TarInfo]]:
    """Every member of a tar that is no folder, and what holds its content: itself, or what it is a hard link to."""
    cut_off = f"{shard}: is cut off; replace it"
    end = 0
    files: dict[str, tarfile.TarInfo] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            size = shard.stat().st_size
            while (member := tar.next()) is not None:
                end = tar.offset
                if end > size:
                    raise InputError(cut_off)
                if member.isreg():
                    files[member.name] = member
                if not member.isdir():
                    yield tar, member.name, files.get(member.linkname, member) if member.islnk() else member
    except tarfile.ReadError as error:
        if end == 0:
            raise InputError(f"{shard}: not an uncompressed tar ({error}); decompress or replace it") from error
        raise InputError(cut_off) from error
    with shard.open("rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise InputError(cut_off)
        while rest := file.read(2**20):
            if any(rest):
                raise InputError(f"{shard}: goes on behind its end; join tars with `tar --concatenate`, not with cat")


def _fields(tar: tarfile.TarFile, member: tarfile.TarInfo, shard: Path) -> dict[str, Any]:
    text = _text(tar, member, shard)
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise InputError(f"{shard}: {member.name} is not JSON ({error}); write the shard anew") from error
    if not isinstance(fields, dict):
        raise InputError(f"{shard}: {member.name} is not a JSON object; write the shard anew")
    return fields


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo, shard: Path) -> str:
    file = tar.extractfile(member)
    assert file is not None
    try:
        return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{shard}: {member.name} is not UTF-8; write the shard anew") from error


def _name_of(shard: Path, folder: Path) -> str:
    shard, folder = shard.resolve(), folder.resolve()
    return str(shard.relative_to(folder) if shard.is_relative_to(folder) else shard)
