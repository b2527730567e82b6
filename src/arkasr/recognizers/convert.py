"""Conversion of a checkpoint: between the published and the Transformers layout, or to a shorter Whisper window.

This is the `convert` command.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arkasr.data.audio import LONGEST_CLIP_SECONDS
from arkasr.errors import InputError, nearest_of
from arkasr.files import atomic_path
from arkasr.model.layout import LAYOUTS, PUBLISHED_ARCHITECTURE
from arkasr.recognizers.ark_asr import ArkAsr
from arkasr.recognizers.load import load_recognizer
from arkasr.recognizers.precision import dtype_named
from arkasr.recognizers.whisper import Whisper
from arkasr.recognizers.whisper_window import with_window


def convert(source: str, destination: Path, layout: str | None, dtype: str, max_shard_size: str) -> str:
    """Write a checkpoint in another layout, dtype or number of files; the weights stay the same.

    Args:
        source: a folder or a hub name.
        destination: a folder that does not exist yet.
        layout: `published` or `transformers`; None = the one that the source does not have.
        dtype: of the weights; `auto` = as stored.
        max_shard_size: largest file, such as "5GB".

    Returns:
        The layout written.

    Raises:
        InputError: the source is no Ark-ASR model, an argument is unknown, or the destination exists.
    """
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"--layout {layout}: {nearest_of(layout, LAYOUTS)}")
    _refuse_existing(destination)
    recognizer = load_recognizer(source, dtype=dtype_named(dtype))
    if not isinstance(recognizer, ArkAsr):
        raise InputError(
            f"model {source}: is of type {recognizer.model.config.model_type!r}; only Ark-ASR has two layouts"
        )
    if layout is None:
        published = PUBLISHED_ARCHITECTURE in (recognizer.model.config.architectures or [])
        layout = "transformers" if published else "published"
    with _new_folder(destination, max_shard_size) as writing:
        LAYOUTS[layout](recognizer.model, recognizer.processor, writing, max_shard_size)
    return layout


def convert_window(source: str, destination: Path, seconds: float, dtype: str, max_shard_size: str) -> None:
    """Write a Whisper model with a shorter window, as a plain Whisper folder; the weights stay the same.

    Args:
        source: a folder or a hub name.
        destination: a folder that does not exist yet.
        seconds: of the window, whole and at most those of the source.
        dtype: of the weights; `auto` = as stored.
        max_shard_size: largest file, such as "5GB".

    Raises:
        InputError: the source is no Whisper model or has a shorter window, an argument is unknown, or the destination
            exists.
    """
    if not (1 <= seconds <= LONGEST_CLIP_SECONDS and float(seconds).is_integer()):
        raise InputError(
            f"--window-seconds {seconds:g}: give whole seconds from 1 to {LONGEST_CLIP_SECONDS:g}; Transformers stores "
            "no others"
        )
    _refuse_existing(destination)
    recognizer = load_recognizer(source, dtype=dtype_named(dtype))
    if not isinstance(recognizer, Whisper):
        raise InputError(
            f"model {source}: is of type {recognizer.model.config.model_type!r}; --window-seconds needs a Whisper "
            "model, because other models pad no clip to a window"
        )
    if seconds > recognizer.window_seconds:
        raise InputError(
            f"--window-seconds {seconds:g}: model {source} has a window of {recognizer.window_seconds:g} s, which can "
            "only become shorter; convert the original model"
        )
    converted = with_window(recognizer, int(seconds))
    with _new_folder(destination, max_shard_size) as writing:
        converted.save(writing, max_shard_size=max_shard_size)


def _refuse_existing(destination: Path) -> None:
    if destination.exists():
        raise InputError(f"{destination}: exists already; name a folder that does not")


@contextmanager
def _new_folder(destination: Path, max_shard_size: str) -> Iterator[Path]:
    """A folder that takes the name `destination` when it is complete."""
    with atomic_path(destination) as writing:
        writing.mkdir()
        try:
            yield writing
        except ValueError as error:
            raise InputError(f"--max-shard-size {max_shard_size}: {error}; give a size such as 5GB") from error
