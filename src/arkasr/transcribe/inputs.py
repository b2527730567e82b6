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

from arkasr.data.manifest import read_manifest
from arkasr.errors import InputError
from arkasr.transcribe.recording import Recording, recording_of

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64")
MANIFEST_SUFFIXES = (".jsonl", ".ndjson")
STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Input:
    """A recording and where it came from.

    Attributes:
        recording: what is heard; its `fields` begin every output row.
        name: what its own output file is called after, without a suffix, relative to the output folder.
    """

    recording: Recording
    name: Path


@contextmanager
def opened(sources: Sequence[str], *, find_speech: bool | None, language: str | None) -> Iterator[list[Input]]:
    """Every recording that the sources name, in order; standard input is kept as a file until the end.

    Args:
        sources: audio files, folders (searched for audio to any depth, in the order of names), manifests, or `-`.
        find_speech: look for speech in short recordings too; None = in files, and not in a manifest's utterances.
        language: of recordings that name none.

    Raises:
        InputError: a source is not there, holds no audio, or is a manifest with bad lines.
    """
    with TemporaryDirectory(prefix="arkasr-") as folder:
        found: list[Input] = []
        for source in sources:
            path = _standard_input(Path(folder)) if source == STANDARD_INPUT else Path(source)
            if path.is_dir():
                found += _of_folder(path, find_speech, language)
            elif path.suffix in MANIFEST_SUFFIXES:
                # A manifest from a pipe has no folder of its own.
                base = Path.cwd() if source == STANDARD_INPUT else path.parent
                found += _of_manifest(path, base, find_speech, language)
            elif path.is_file():
                fields = {"audio": source}
                recording = Recording(path, None, None, language, find_speech is not False, fields)
                found.append(Input(recording, Path(path.name)))
            else:
                raise InputError(f"{source}: no such file or folder")
        yield found


def _of_folder(folder: Path, find_speech: bool | None, language: str | None) -> list[Input]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())
    if not paths:
        raise InputError(f"{folder}: holds no audio ({', '.join(AUDIO_SUFFIXES)})")
    return [
        Input(
            Recording(path, None, None, language, find_speech is not False, {"audio": str(path)}),
            path.relative_to(folder),
        )
        for path in paths
    ]


def _of_manifest(path: Path, base: Path, find_speech: bool | None, language: str | None) -> list[Input]:
    return [
        Input(
            recording_of(utterance, find_speech=find_speech is True, language=language),
            Path(utterance.id.strip("/").replace("/", "-")),
        )
        for utterance in read_manifest(path, check_files=False, folder=base)
    ]


def _standard_input(folder: Path) -> Path:
    """Standard input as a file: a manifest if it begins like one, else audio."""
    path = folder / "standard-input"
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    with path.open("rb") as file:
        is_manifest = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    return path.rename(path.with_suffix(MANIFEST_SUFFIXES[0])) if is_manifest else path
