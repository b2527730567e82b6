"""A checkpoint from one layout into the other: the `convert` command."""

from pathlib import Path

from arkasr.errors import InputError, nearest_of
from arkasr.files import atomic_path
from arkasr.model.layout import LAYOUTS, PUBLISHED_ARCHITECTURE
from arkasr.recognizers.ark_asr import ArkAsr
from arkasr.recognizers.load import dtype_named, load_recognizer


def convert(source: str, destination: Path, layout: str | None, dtype: str, max_shard_size: str) -> str:
    """Write a checkpoint in another layout, dtype or number of files, weights unchanged.

    Args:
        source: a folder or a hub name.
        destination: a folder that is not there yet.
        layout: `published` or `transformers`; None = the one that the source has not.
        dtype: of the weights; `auto` = as stored.
        max_shard_size: of a file, such as "5GB".

    Returns:
        The layout written.

    Raises:
        InputError: the source is no Ark-ASR model, an argument is unknown, or the destination is there already.
    """
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"--layout {layout}: {nearest_of(layout, LAYOUTS)}")
    if destination.exists():
        raise InputError(f"{destination}: is there already; name a folder that is not")
    student = load_recognizer(source, dtype=dtype_named(dtype))
    if not isinstance(student, ArkAsr):
        raise InputError(
            f"model {source}: is of type {student.model.config.model_type!r}; only Ark-ASR has two layouts"
        )
    if layout is None:
        published = PUBLISHED_ARCHITECTURE in (student.model.config.architectures or [])
        layout = "transformers" if published else "published"
    with atomic_path(destination) as writing:
        writing.mkdir()
        try:
            LAYOUTS[layout](student.model, student.processor, writing, max_shard_size)
        except ValueError as error:
            raise InputError(f"--max-shard-size {max_shard_size}: {error}; give a size such as 5GB") from error
    return layout
