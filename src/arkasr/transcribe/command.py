"""The `transcribe` command: inputs through a model to outputs, resumable, one bad file never stopping the rest."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from arkasr.errors import InputError, nearest_of
from arkasr.transcribe.formats import FORMATS, named_text
from arkasr.transcribe.inputs import Input
from arkasr.transcribe.journal import Journal
from arkasr.transcribe.transcriber import Transcriber
from arkasr.transcribe.transcript import Transcript

# Formats that hold one recording only.
SINGLE_FORMATS = ("json", "srt", "vtt")


def format_for(name: str | None, output: Path | None, inputs: Sequence[Input]) -> str:
    """The format asked for, else that of the output's suffix, else JSON Lines for manifests and text for files.

    Raises:
        InputError: there is no such format.
    """
    if name is None and output is not None and output.suffix:
        name = output.suffix.removeprefix(".")
    if name is None:
        return "txt" if all(set(item.recording.fields) == {"audio"} for item in inputs) else "jsonl"
    if name not in FORMATS:
        raise InputError(f"format {name}: {nearest_of(name, FORMATS)}")
    return name


def run(
    transcriber: Transcriber,
    inputs: Sequence[Input],
    output: Path | None,
    format_name: str,
    model_name: str,
    on_progress: Callable[[float, float], None] | None = None,
) -> list[str]:
    """Transcribe and write.

    Args:
        transcriber: the model.
        inputs: what is heard.
        output: a file for all of them, or a folder for one each (it exists, ends in `/`, or has no suffix); None =
            standard output.
        format_name: one of `FORMATS`.
        model_name: kept in the journal, so that another model does not go on with it.
        on_progress: told the seconds of audio and the recordings just done.

    Returns:
        A line for each recording that could not be heard, or not wholly.

    Raises:
        InputError: the outputs cannot be named as asked.
    """
    write = FORMATS[format_name]
    if format_name == "txt" and len(inputs) > 1 and not (output is not None and is_folder(output)):
        write = named_text
    recordings = [item.recording for item in inputs]
    with ExitStack() as stack:
        journal = None
        if output is not None:
            journal = stack.enter_context(Journal(_journal_path(output), _settings_of(transcriber, model_name)))
        transcripts = transcriber.transcribe(recordings, journal=journal, on_progress=on_progress)
        problems: list[str] = []
        texts = (
            write(item.recording.fields, _noted(transcript, item, problems))
            for item, transcript in zip(inputs, transcripts, strict=True)
        )
        if output is None:
            for text in texts:
                sys.stdout.write(text)
                sys.stdout.flush()
        elif is_folder(output):
            for path, text in zip(_paths(output, inputs, format_name), texts, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(path, iter([text]))
        else:
            _write(output, texts)
        if journal:
            journal.remove()
    return problems


def check(inputs: Sequence[Input], output: Path | None, format_name: str) -> None:
    """See that the outputs can be written as asked, before a model is loaded.

    Raises:
        InputError: a format for one recording is to hold several, or two outputs would have one name.
    """
    if output is not None and is_folder(output):
        _paths(output, inputs, format_name)
    elif len(inputs) > 1 and format_name in SINGLE_FORMATS:
        raise InputError(
            f"--format {format_name} holds one recording, there are {len(inputs)}; give a folder as -o DIR/"
        )


def is_folder(output: Path) -> bool:
    """Whether an output is a folder with a file for each recording."""
    return output.is_dir() or not output.suffix


def _noted(transcript: Transcript, item: Input, problems: list[str]) -> Transcript:
    if transcript.error is not None:
        problems.append(transcript.error)
    return transcript


def _paths(folder: Path, inputs: Sequence[Input], format_name: str) -> list[Path]:
    paths = [folder / item.name.with_suffix(f".{format_name}") for item in inputs]
    taken: dict[Path, Input] = {}
    for path, item in zip(paths, inputs, strict=True):
        if path in taken:
            first = taken[path].recording.name
            raise InputError(f"{item.recording.name} and {first} would both be written to {path}; rename one")
        taken[path] = item
    return paths


def _journal_path(output: Path) -> Path:
    return output / ".transcribe.partial" if is_folder(output) else output.with_name(f".{output.name}.partial")


def _settings_of(transcriber: Transcriber, model_name: str) -> dict[str, str | int]:
    """What decides on the words of a piece."""
    return {
        "model": model_name,
        "max_new_tokens": transcriber.settings.max_new_tokens,
        "dtype": str(transcriber.recognizer.model.dtype),
        "language": transcriber.language or "",
    }


def _write(path: Path, texts: Iterator[str]) -> None:
    """Write a file that appears when it is complete."""
    writing = path.with_name(f".{path.name}.writing")
    try:
        with writing.open("w", encoding="utf-8") as file:
            file.writelines(texts)
        writing.replace(path)
    finally:
        writing.unlink(missing_ok=True)
