"""Recordings named on the command line: files, folders, manifests, and standard input.

Audio is not decoded here. Unreadable files are reported when they are transcribed.
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

MANIFEST_SUFFIXES = (".jsonl", ".ndjson", ".json")
STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Input:
    """A recording and the name of its output.

    Attributes:
        recording: its `fields` are copied to the output row.
        output_name: name of its own output file, without suffix, relative to the output folder.
    """

    recording: Recording
    output_name: str


@contextmanager
def open_inputs(sources: Sequence[str], *, find_speech: bool | None) -> Iterator[list[Input]]:
    """All recordings that the sources name, in order. Piped input is stored in a temporary file until the context ends.

    Args:
        sources: audio files, folders (searched recursively, sorted by name), manifests, or `-`.
        find_speech: detect speech in short recordings too; None = in files, but not in a manifest's utterances.

    Raises:
        InputError: a source does not exist, contains no audio, or is a manifest with bad lines.
    """
    if sources.count(STANDARD_INPUT) > 1:
        raise InputError("standard input can be read once; give - once")
    with TemporaryDirectory(prefix="arkasr-") as folder:
        found: list[Input] = []
        for number, source in enumerate(sources):
            path = Path(source)
            piped = is_pipe(source)
            if piped:
                path = _saved_pipe(source, Path(folder) / f"input-{number}")
            if path.is_dir():
                found += _of_folder(path, find_speech)
            elif path.suffix.lower() in MANIFEST_SUFFIXES:
                # Paths in a piped manifest are relative to the current folder.
                found += _of_manifest(path, Path.cwd() if piped else path.parent, find_speech)
            elif path.is_file():
                found.append(_of_file(path, source, path.stem, find_speech))
            else:
                raise InputError(f"{source}: no such file or folder")
        yield found


def audio_files(inputs: Sequence[Input]) -> list[Path]:
    """The audio files of the recordings."""
    return [item.recording.audio for item in inputs if isinstance(item.recording.audio, Path)]


def is_pipe(source: str) -> bool:
    """Whether a source can be read only once: standard input, or a named pipe."""
    path = Path(source)
    return source == STANDARD_INPUT or (path.exists() and not path.is_file() and not path.is_dir())


def path_or_descriptor(source: str) -> Path | int:
    """A source's path, or the file descriptor of standard input; the shell may have redirected a file to it."""
    return sys.stdin.fileno() if source == STANDARD_INPUT else Path(source)


def _of_file(path: Path, source: str, output_name: str, find_speech: bool | None) -> Input:
    return Input(Recording(path, find_speech=find_speech is not False, fields={"audio": source}), output_name)


def _of_folder(folder: Path, find_speech: bool | None) -> list[Input]:
    paths = sorted(path for path in folder.rglob("*") if _is_audio(path, folder))
    if not paths:
        raise InputError(f"{folder}: holds no audio ({', '.join(AUDIO_SUFFIXES)})")
    return [_of_file(path, str(path), str(path.relative_to(folder).with_suffix("")), find_speech) for path in paths]


def _is_audio(path: Path, folder: Path) -> bool:
    """Whether a file in a folder is a recording, by its name. Hidden ones are notes of a system, such as `._a.wav`."""
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in AUDIO_SUFFIXES and not hidden and path.is_file()


def _of_manifest(path: Path, base: Path, find_speech: bool | None) -> list[Input]:
    return [
        Input(recording_of(utterance, find_speech=find_speech is True), _file_name(utterance.id))
        for utterance in read_manifest(path, check_files=False, folder=base)
    ]


def _file_name(utterance_id: str) -> str:
    name = utterance_id.strip("/").replace("/", "-").replace("\0", "-")
    return name if name.strip(".") else f"-{name}"


def _saved_pipe(source: str, path: Path) -> Path:
    """Save piped input to a file: with a manifest's suffix if it begins with `{`, else as audio."""
    with path.open("wb") as file:
        if source == STANDARD_INPUT:
            shutil.copyfileobj(sys.stdin.buffer, file)
        else:
            with Path(source).open("rb") as pipe:
                shutil.copyfileobj(pipe, file)
    with path.open("rb") as file:
        is_manifest = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    return path.rename(path.with_suffix(MANIFEST_SUFFIXES[0])) if is_manifest else path
