"""The `transcribe` command: inputs through a model to outputs, resumable, one bad file never stopping the rest."""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from arkasr.data.replacing import refuse_to_replace
from arkasr.errors import InputError, nearest_of
from arkasr.files import write_atomically
from arkasr.recognizers.fingerprint import fingerprint
from arkasr.transcribe.formats import FORMATS, named_text
from arkasr.transcribe.inputs import Input
from arkasr.transcribe.journal import Journal
from arkasr.transcribe.transcriber import Transcriber
from arkasr.transcribe.transcript import Transcript

# Formats that hold one recording only.
SINGLE_FORMATS = ("json", "srt", "vtt")
NAMES = "backslashreplace"  # the name of a recording need not be text


@dataclass(frozen=True)
class Target:
    """Where transcripts go.

    Attributes:
        format_name: one of `FORMATS`.
        path: a file for all recordings, or a folder; None = standard output.
        files: in a folder, the file of each recording.
    """

    format_name: str
    path: Path | None = None
    files: tuple[Path, ...] | None = None

    @property
    def journal(self) -> Path | None:
        """Where progress is kept."""
        if self.path is None:
            return None
        return self.path / ".transcribe.partial" if self.files else self.path.with_name(f".{self.path.name}.partial")


def target_of(
    output: str | None, format_name: str | None, inputs: Sequence[Input], also_read: Sequence[Path | int] = ()
) -> Target:
    """Decide on format and files, before a model is loaded.

    Args:
        output: a file, or a folder (it exists, ends in `/`, or has no suffix) with a file for each recording; None =
            standard output.
        format_name: None = that of the file's suffix, else JSON Lines for manifests and text for files.
        inputs: what is transcribed.
        also_read: the manifests that name it, or the descriptor of standard input, and the files of the models.

    Raises:
        InputError: there is no such format, a format for one recording is to hold several, two outputs would have one
            name, or an output would replace an input.
    """
    path = None if output is None else Path(output)
    into_folder = path is not None and (str(output).endswith("/") or path.is_dir() or not path.suffix)
    if format_name is None and path is not None and not into_folder:
        format_name = path.suffix.removeprefix(".").lower()
    if format_name is None:
        format_name = "txt" if all(set(item.recording.fields) == {"audio"} for item in inputs) else "jsonl"
    if format_name not in FORMATS:
        raise InputError(f"format {format_name}: {nearest_of(format_name, FORMATS)}")
    if path is not None and into_folder:
        if path.is_file():
            raise InputError(
                f"{path}: is a file without a suffix; name a folder, or a file such as {path}.{format_name}"
            )
        target = Target(format_name, path, _files(path, inputs, format_name))
    elif len(inputs) > 1 and format_name in SINGLE_FORMATS:
        raise InputError(f"format {format_name} holds one recording, there are {len(inputs)}; give a folder: -o DIR/")
    else:
        target = Target(format_name, path)
    heard = [item.recording.audio for item in inputs if isinstance(item.recording.audio, Path)]
    refuse_to_replace([*also_read, *heard], filter(None, [*(target.files or [path]), target.journal]))
    return target


def run(
    transcriber: Transcriber,
    inputs: Sequence[Input],
    target: Target,
    model_name: str,
    on_progress: Callable[[float, float], None] | None = None,
) -> list[str]:
    """Transcribe and write.

    Args:
        transcriber: the model.
        inputs: what is heard.
        target: where transcripts go.
        model_name: kept in the journal, so that another model does not go on with it.
        on_progress: told the seconds of audio and the recordings just done.

    Returns:
        A line for each recording that could not be heard, or not wholly.

    Raises:
        InputError: the progress that is kept is that of another run.
    """
    write = FORMATS[target.format_name]
    if target.format_name == "txt" and len(inputs) > 1 and target.files is None:
        write = named_text
    with ExitStack() as stack:
        journal = None
        if target.journal is not None:
            journal = stack.enter_context(Journal(target.journal, _settings_of(transcriber, model_name)))
        recordings = [item.recording for item in inputs]
        transcripts = transcriber.transcribe(recordings, journal=journal, on_progress=on_progress)
        problems: list[str] = []
        texts = (
            write(item.recording.fields, _noted(transcript, problems))
            for item, transcript in zip(inputs, transcripts, strict=True)
        )
        if target.path is None:
            for text in texts:
                sys.stdout.buffer.write(text.encode("utf-8", NAMES))
                sys.stdout.buffer.flush()
        elif target.files is None:
            write_atomically(target.path, texts, errors=NAMES)
        else:
            for path, text in zip(target.files, texts, strict=True):
                write_atomically(path, [text], errors=NAMES)
        if journal:
            journal.remove()
    return problems


def _noted(transcript: Transcript, problems: list[str]) -> Transcript:
    if transcript.error is not None:
        problems.append(transcript.error)
    return transcript


def _files(folder: Path, inputs: Sequence[Input], format_name: str) -> tuple[Path, ...]:
    taken: dict[Path, Input] = {}
    for item in inputs:
        path = folder / f"{item.name}.{format_name}"
        if path in taken:
            first = taken[path].recording.name
            raise InputError(f"{item.recording.name} and {first} would both be written to {path}; rename one")
        taken[path] = item
    return tuple(taken)


def _settings_of(transcriber: Transcriber, model_name: str) -> dict[str, str | int]:
    """What decides on the words of a piece."""
    model = transcriber.recognizer.model
    return {
        "model": model_name,
        "weights": fingerprint(model),
        "attention": model.config._attn_implementation,
        "max_new_tokens": transcriber.settings.max_new_tokens,
        "dtype": str(model.dtype),
        "language": transcriber.language or "",
    }
