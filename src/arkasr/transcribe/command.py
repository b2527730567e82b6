"""The `transcribe` command: choose output files, transcribe, write. A bad recording does not stop the others."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from arkasr.data.manifests.output_fields import TRUNCATED
from arkasr.data.replacing import refuse_to_replace
from arkasr.errors import InputError, nearest_of
from arkasr.files import hidden_beside, write_atomically
from arkasr.recognizers.journal import Journal, settings_of
from arkasr.transcribe.formats import FORMATS, named_text
from arkasr.transcribe.inputs import Input, audio_files
from arkasr.transcribe.transcriber import Transcriber

FORMATS_WITH_FLAGS = ("jsonl", "json")
SINGLE_RECORDING_FORMATS = ("json", "srt", "vtt")
ENCODING_ERRORS = "backslashreplace"  # file names may contain bytes that are not valid UTF-8


@dataclass(frozen=True)
class Target:
    """Where transcripts are written.

    Attributes:
        format_name: one of `FORMATS`.
        path: a file for all recordings, or a folder; None = standard output.
        files: if `path` is a folder, the file of each recording.
    """

    format_name: str
    path: Path | None = None
    files: tuple[Path, ...] | None = None

    @property
    def journal(self) -> Path | None:
        """File in which progress is stored; None for standard output."""
        if self.path is None:
            return None
        return self.path / ".transcribe.partial" if self.files else hidden_beside(self.path, ".partial")

    @property
    def locked(self) -> tuple[Path, ...]:
        """What another command must not write at the same time: the file, or the journal of the folder."""
        if self.path is None or self.journal is None:
            return ()
        return (self.journal,) if self.files else (self.path,)


@dataclass
class Outcome:
    """What went wrong in a transcription.

    Attributes:
        problems: an error message for each recording that was not transcribed completely.
        truncated: recordings with a piece that was cut off at the limit of tokens.
    """

    problems: list[str] = field(default_factory=list)
    truncated: int = 0

    def warning(self, format_name: str, max_new_tokens: int) -> str | None:
        """One line on cut transcripts, for a format that does not show them; None if there is nothing to say."""
        if not self.truncated or format_name in FORMATS_WITH_FLAGS:
            return None
        return (
            f"{self.truncated} recordings have pieces that were cut off at {max_new_tokens} tokens; raise "
            "--max-new-tokens, or see which in the format jsonl"
        )


def target_of(
    output: str | None, format_name: str | None, inputs: Sequence[Input], also_read: Sequence[Path | int] = ()
) -> Target:
    """Choose format and files, before a model is loaded.

    Args:
        output: a file, or a folder (it exists, ends in `/`, or has no suffix) with one file per recording; None =
            standard output.
        format_name: None = the file's suffix, else JSON Lines for manifests and text for files.
        inputs: the recordings.
        also_read: other files that the command reads: manifests, models, the file descriptor of standard input.

    Raises:
        InputError: the format does not exist or cannot contain several recordings, two outputs have the same name, or
            an output would replace an input.
    """
    path = None if output is None else Path(output)
    is_folder = path is not None and (str(output).endswith("/") or path.is_dir() or not path.suffix)
    if format_name is None and path is not None and not is_folder:
        format_name = path.suffix.removeprefix(".").lower()
    if format_name is None:
        format_name = "txt" if all(set(item.recording.fields) == {"audio"} for item in inputs) else "jsonl"
    if format_name not in FORMATS:
        raise InputError(f"format {format_name}: {nearest_of(format_name, FORMATS)}")
    if path is not None and is_folder:
        if path.is_file():
            raise InputError(
                f"{path}: is a file without a suffix; name a folder, or a file such as {path}.{format_name}"
            )
        target = Target(format_name, path, _files(path, inputs, format_name))
    elif len(inputs) > 1 and format_name in SINGLE_RECORDING_FORMATS:
        raise InputError(f"format {format_name} holds one recording, there are {len(inputs)}; give a folder: -o DIR/")
    else:
        target = Target(format_name, path)
    refuse_to_replace([*also_read, *audio_files(inputs)], filter(None, [*(target.files or [path]), target.journal]))
    return target


def transcribe_inputs(
    transcriber: Transcriber,
    inputs: Sequence[Input],
    target: Target,
    model_name: str,
    on_progress: Callable[[float, float], None] | None = None,
) -> Outcome:
    """Transcribe recordings and write their transcripts.

    Args:
        transcriber: the model.
        inputs: the recordings.
        target: where transcripts are written.
        model_name: stored in the journal; a run with another model does not continue it.
        on_progress: as in `Transcriber.transcribe`.

    Returns:
        What went wrong.

    Raises:
        InputError: the journal belongs to another model or other settings.
    """
    write = FORMATS[target.format_name]
    if target.format_name == "txt" and len(inputs) > 1 and target.files is None:
        write = named_text
    outcome = Outcome()
    with ExitStack() as stack:
        journal = None
        if target.journal is not None:
            settings = settings_of(transcriber.recognizer, model_name, transcriber.settings.max_new_tokens)
            journal = stack.enter_context(Journal(target.journal, settings | {"language": transcriber.language or ""}))

        def texts() -> Iterator[str]:
            recordings = [item.recording for item in inputs]
            transcripts = transcriber.transcribe(recordings, journal=journal, on_progress=on_progress)
            for recording, transcript in zip(recordings, transcripts, strict=True):
                if transcript.error is not None:
                    outcome.problems.append(transcript.error)
                outcome.truncated += TRUNCATED in transcript.flags
                yield write(recording.fields, transcript)

        _write_texts(texts(), target)
        if journal:
            journal.remove()
    return outcome


def _write_texts(texts: Iterable[str], target: Target) -> None:
    if target.path is None:
        for text in texts:
            sys.stdout.buffer.write(text.encode("utf-8", ENCODING_ERRORS))
            sys.stdout.buffer.flush()
    elif target.files is None:
        write_atomically(target.path, texts, errors=ENCODING_ERRORS)
    else:
        for path, text in zip(target.files, texts, strict=True):
            write_atomically(path, [text], errors=ENCODING_ERRORS)


def _files(folder: Path, inputs: Sequence[Input], format_name: str) -> tuple[Path, ...]:
    input_by_path: dict[Path, Input] = {}
    for item in inputs:
        path = folder / f"{item.output_name}.{format_name}"
        if path in input_by_path:
            first = input_by_path[path].recording.name
            raise InputError(f"{item.recording.name} and {first} would both be written to {path}; rename one")
        input_by_path[path] = item
    return tuple(input_by_path)
