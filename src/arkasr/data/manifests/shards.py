"""Manifest rows for tar shards in the WebDataset convention: `KEY.flac` beside `KEY.json` or `KEY.txt` in one tar.

Each tar is read once. The audio stays in the tar; a row gives its byte range (`slices.py`).
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

# WebDataset's rule: the key ends at the first dot of the file name.
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
    """The tars in `sources` and in the folders in `sources`, sorted by name within a folder.

    Raises:
        InputError: a source does not exist or holds no tar, or a tar is compressed.
    """
    shards: list[Path] = []
    for source in sources:
        files = sorted(path for path in source.iterdir() if path.is_file()) if source.is_dir() else [source]
        compressed = next((path for path in files if path.name.endswith(_COMPRESSED)), None)
        if compressed is not None:
            raise InputError(f"{compressed}: is compressed, so single members cannot be read; decompress it first")
        if not source.exists():
            raise InputError(f"{source}: no such tar or folder; correct the path")
        tars = [path for path in files if path.suffix == ".tar"]
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
    """Manifest rows of all samples, in the order of the tars.

    Args:
        shards: uncompressed tars.
        folder: folder of the manifest; shards below it get relative paths.
        on_shard: called with 1 after each tar.
        on_unreadable: called with the reason if audio cannot be measured. The row has no `duration`, and training
            quarantines it.

    Raises:
        InputError: a tar is unreadable or truncated, a sample is incomplete, or no audio can be measured; the
            message names tar and key.
    """
    labelled: str | None = None
    unlabelled: str | None = None
    unreadable: str | None = None
    any_measured = False
    for shard in shards:
        name = _manifest_path(shard, folder)
        for sample in _samples(shard):
            where = f"{shard}: {sample.key}"
            if sample.audio is None:
                raise InputError(f"{where} has no audio ({', '.join(AUDIO_SUFFIXES)}); write the shard again")
            if sample.labelled:
                labelled = where
            else:
                unlabelled = where
            if labelled and unlabelled:
                raise InputError(f"{unlabelled} has no .json or .txt, but {labelled} has one; label all or none")
            row = _row(sample, sample.audio, name)
            try:
                row |= _duration(sample, sample.audio)
                any_measured = True
            except InputError as error:
                unreadable = f"{where}: {error}"
                if on_unreadable:
                    on_unreadable(unreadable)
            yield row
        if on_shard:
            on_shard(1)
    if not labelled and not unlabelled:
        raise InputError(
            f"{shards[0]}: no audio ({', '.join(AUDIO_SUFFIXES)}) in this or any other shard; name shards with audio"
        )
    if unreadable and not any_measured:
        raise InputError(unreadable)


def _row(sample: _Sample, audio: Slice, name: str) -> dict[str, Any]:
    fields = dict(sample.fields or {})
    fields["audio"] = f"{name}:{audio.offset}:{audio.size}"
    fields.setdefault("id", f"{name.removesuffix('.tar')}/{sample.key}")
    if sample.text is not None:
        fields.setdefault("text", sample.text)
    return fields


def _duration(sample: _Sample, audio: Slice) -> dict[str, float]:
    """The measured `duration`, if the sample's JSON does not give it."""
    fields = sample.fields or {}
    if fields.get("duration") is not None or fields.get("end_time") not in (None, -1):
        return {}
    begin = fields.get("begin_time")
    seconds = duration_of(f"{audio.file}:{audio.offset}:{audio.size}")
    return {"duration": round(seconds - max(begin if isinstance(begin, int | float) else 0, 0), 6)}


def _samples(shard: Path) -> Iterator[_Sample]:
    """The samples of a tar; the members of one key must be consecutive."""
    seen: set[str] = set()
    sample: _Sample | None = None
    for tar, name, member in _members(shard):
        match = _MEMBER.fullmatch(name.removeprefix("./"))
        if match is None:
            continue
        key, suffix = match["key"], match["suffix"].lower()
        suffix = suffix.rsplit(".", 1)[-1]
        is_audio = f".{suffix}" in AUDIO_SUFFIXES
        if not is_audio and suffix not in _LABEL_SUFFIXES:
            continue
        if not member.isreg() or member.issparse():
            raise InputError(f"{shard}: {name} is a link or a sparse file; write the shard again (tar --dereference)")
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            if key in seen:
                raise InputError(f"{shard}: the members of key {key} are not consecutive; write the shard again")
            seen.add(key)
            sample = _Sample(key)
        if is_audio and sample.audio is not None:
            raise InputError(f"{shard}: {key} has several audio members; keep one")
        if is_audio:
            sample.audio = Slice(shard, member.offset_data, member.size)
        elif suffix == "txt":
            sample.text = _text(tar, member, shard).strip()
        else:
            sample.fields = _fields(tar, member, shard)
    if sample is not None:
        yield sample


def _members(shard: Path) -> Iterator[tuple[tarfile.TarFile, str, tarfile.TarInfo]]:
    """Tar, name and `TarInfo` of every member that is not a folder; a hard link gives its target's `TarInfo`."""
    truncated = f"{shard}: is truncated; replace it"
    end = 0
    files: dict[str, tarfile.TarInfo] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            size = shard.stat().st_size
            while (member := tar.next()) is not None:
                end = tar.offset
                if end > size:
                    raise InputError(truncated)
                if member.isreg():
                    files[member.name] = member
                if not member.isdir():
                    yield tar, member.name, files.get(member.linkname, member) if member.islnk() else member
    except tarfile.ReadError as error:
        if end == 0:
            raise InputError(f"{shard}: not an uncompressed tar ({error}); decompress or replace it") from error
        raise InputError(truncated) from error
    with shard.open("rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise InputError(truncated)
        while rest := file.read(2**20):
            if any(rest):
                raise InputError(f"{shard}: has data after its end; join tars with `tar --concatenate`, not with cat")


def _fields(tar: tarfile.TarFile, member: tarfile.TarInfo, shard: Path) -> dict[str, Any]:
    text = _text(tar, member, shard)
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise InputError(f"{shard}: {member.name} is not JSON ({error}); write the shard again") from error
    if not isinstance(fields, dict):
        raise InputError(f"{shard}: {member.name} is not a JSON object; write the shard again")
    return fields


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo, shard: Path) -> str:
    file = tar.extractfile(member)
    assert file is not None
    try:
        return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{shard}: {member.name} is not UTF-8; write the shard again") from error


def _manifest_path(shard: Path, folder: Path) -> str:
    shard, folder = shard.resolve(), folder.resolve()
    return str(shard.relative_to(folder) if shard.is_relative_to(folder) else shard)
