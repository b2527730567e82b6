"""Conversion of a checkpoint between the published and the Transformers layout: the `convert` command."""

from pathlib import Path

from arkasr.errors import InputError, nearest_of
from arkasr.files import atomic_path
from arkasr.model.layout import LAYOUTS, PUBLISHED_ARCHITECTURE
from arkasr.recognizers.ark_asr import ArkAsr
from arkasr.recognizers.load import load_recognizer
from arkasr.recognizers.precision import dtype_named


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
    if destination.exists():
        raise InputError(f"{destination}: exists already; name a folder that does not")
    recognizer = load_recognizer(source, dtype=dtype_named(dtype))
    if not isinstance(recognizer, ArkAsr):
        raise InputError(
            f"model {source}: is of type {recognizer.model.config.model_type!r}; only Ark-ASR has two layouts"
        )
    if layout is None:
        published = PUBLISHED_ARCHITECTURE in (recognizer.model.config.architectures or [])
        layout = "transformers" if published else "published"
    with atomic_path(destination) as writing:
        writing.mkdir()
        try:
            LAYOUTS[layout](recognizer.model, recognizer.processor, writing, max_shard_size)
        except ValueError as error:
            raise InputError(f"--max-shard-size {max_shard_size}: {error}; give a size such as 5GB") from error
    return layout
