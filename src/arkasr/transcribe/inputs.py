"""What the command line was given, as recordings: files, folders, manifests, and standard input.

Only looks at names; what cannot be read is found when it is heard.
"""

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from arkasr.data.audio import AUDIO_SUFFIXES
from arkasr.data.manifests.manifest import read_manifest
from arkasr.errors import InputError
from arkasr.transcribe.recording import Recording, recording_of

MANIFEST_SUFFIXES = (".jsonl", ".ndjson")
STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Input:
    """A recording and where it came from.

    Attributes:
        recording: what is heard; its `fields` begin every output row.
        name: what its own output file is called, without a suffix, relative to the output folder.
    """

    recording: Recording
    name: str


@contextmanager
def opened(sources: Sequence[str], *, find_speech: bool | None) -> Iterator[list[Input]]:
    """Every recording that the sources name, in order; what comes through a pipe is kept as a file until the end.

    Args:
        sources: audio files, folders (searched for audio to any depth, in the order of names), manifests, or `-`.
        find_speech: look for speech in short recordings too; None = in files, and not in a manifest's utterances.

    Raises:
        InputError: a source is not there, holds no audio, or is a manifest with bad lines.
    """
    if sources.count(STANDARD_INPUT) > 1:
        raise InputError("standard input can be read once; give - once")
    with TemporaryDirectory(prefix="arkasr-") as folder:
        found: list[Input] = []
        for number, source in enumerate(sources):
            path = Path(source)
            piped = source == STANDARD_INPUT or (path.exists() and not path.is_file() and not path.is_dir())
            if piped:
                path = _kept(source, Path(folder) / f"input-{number}")
            if path.is_dir():
                found += _of_folder(path, find_speech)
            elif path.suffix.lower() in MANIFEST_SUFFIXES:
                # A manifest from a pipe has no folder of its own.
                found += _of_manifest(path, Path.cwd() if piped else path.parent, find_speech)
            elif path.is_file():
                found.append(_of_file(path, source, path.stem, find_speech))
            else:
                raise InputError(f"{source}: no such file or folder")
        yield found


def read_at(source: str) -> Path | int:
    """Where a source is read: its path, or the descriptor of standard input, which may be a file too."""
    return sys.stdin.fileno() if source == STANDARD_INPUT else Path(source)


def _of_file(path: Path, source: str, name: str, find_speech: bool | None) -> Input:
    return Input(Recording(path, find_speech=find_speech is not False, fields={"audio": source}), name)


def _of_folder(folder: Path, find_speech: bool | None) -> list[Input]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())
    if not paths:
        raise InputError(f"{folder}: holds no audio ({', '.join(AUDIO_SUFFIXES)})")
    return [_of_file(path, str(path), str(path.relative_to(folder).with_suffix("")), find_speech) for path in paths]


def _of_manifest(path: Path, base: Path, find_speech: bool | None) -> list[Input]:
    return [
        Input(recording_of(utterance, find_speech=find_speech is True), _file_name(utterance.id))
        for utterance in read_manifest(path, check_files=False, folder=base)
    ]


def _file_name(utterance_id: str) -> str:
    name = utterance_id.strip("/").replace("/", "-").replace("\0", "-")
    return name if name.strip(".") else f"-{name}"


def _kept(source: str, path: Path) -> Path:
    """What comes through a pipe as a file: a manifest if it begins like one, else audio."""
    with path.open("wb") as file:
        if source == STANDARD_INPUT:
            shutil.copyfileobj(sys.stdin.buffer, file)
        else:
            with Path(source).open("rb") as pipe:
                shutil.copyfileobj(pipe, file)
    with path.open("rb") as file:
        is_manifest = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    return path.rename(path.with_suffix(MANIFEST_SUFFIXES[0])) if is_manifest else path
