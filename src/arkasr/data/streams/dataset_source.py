"""A dataset of the `datasets` library: its name, its columns, and the library's stream of it."""

from typing import Any

from pydantic import Field, field_validator

from arkasr.data.languages import canonical_language
from arkasr.errors import InputError, first_line_of, nearest_of
from arkasr.settings import Settings


class DatasetSource(Settings):
    """A dataset that the `datasets` library streams, from the hub or from local files (docs/data.md)."""

    path: str
    """Name on the hub, or a local folder of parquet, arrow or other files that the library reads."""

    name: str | None = None
    """Configuration of the dataset. `null`: the default of the dataset."""

    split: str = "train"
    """Split of the dataset."""

    revision: str | None = None
    """Commit, tag or branch on the hub. `null`: the newest commit."""

    audio: str = "audio"
    """Column of the audio."""

    text: str | None = "text"
    """Column of the transcript. `null`: no column."""

    language: str | None = None
    """Language, as a name or a code, of utterances without a value in `language_column`. `null`: not known."""

    language_column: str | None = None
    """Column of the language. `null`: no column."""

    id: str | None = None
    """Column of a unique id. `null`: the id is LANE/EXAMPLE, both from 0: the number of the lane (a part of the
    dataset's files) and of the example in it. Another `accumulation` gives other lanes, and so other ids."""

    examples: int | None = Field(default=None, ge=1)
    """Number of examples. Needed if the dataset does not give the number. `max_quarantined_share` refers to this
    number."""

    @field_validator("language")
    @classmethod
    def _known_language(cls, language: str | None) -> str | None:
        return canonical_language(language) if language is not None else None


def open_dataset(source: DatasetSource) -> Any:
    """The library's stream of a dataset, with audio left encoded.

    Raises:
        InputError: the library is not installed, or the dataset or a column does not exist.
    """
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"dataset {source.path}: needs the library `datasets`; pip install 'arkasr[datasets]'"
        ) from None
    try:
        dataset = datasets.load_dataset(
            source.path, source.name, split=source.split, revision=source.revision, streaming=True
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise InputError(f"dataset {source.path}: {first_line_of(error)}") from error
    features = dataset.features or dataset._resolve_features().features
    for column in filter(None, (source.audio, source.text, source.language_column, source.id)):
        if column not in features:
            raise InputError(f"dataset {source.path}: no column {column!r}; {nearest_of(column, features)}")
    if isinstance(features[source.audio], datasets.Audio):
        dataset = dataset.cast_column(source.audio, datasets.Audio(decode=False))
    return dataset


def example_count(dataset: Any, source: DatasetSource) -> int:
    """Number of examples of a dataset.

    Raises:
        InputError: neither the dataset nor `source` gives it.
    """
    if source.examples is not None:
        return source.examples
    split = (dataset.info.splits or {}).get(source.split)
    if split is None or not split.num_examples:
        raise InputError(f"dataset {source.path}: does not give its number of examples; set `examples` in the recipe")
    return int(split.num_examples)
