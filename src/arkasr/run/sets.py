"""Reads the sets of a recipe; filters, shuffles and shortens them and withholds labels as the recipe says."""

from pathlib import Path

from arkasr.data.corpora.synthetic import corpus_cache_folder, prepare_synthetic_corpus
from arkasr.data.languages import canonical_language
from arkasr.data.manifests.index import ManifestIndex
from arkasr.data.manifests.indexing import build_index
from arkasr.data.manifests.opening import needs_index, open_manifest
from arkasr.data.manifests.utterances import Utterances
from arkasr.errors import InputError
from arkasr.progress import Progress
from arkasr.recipe.settings import CorpusSettings, SetSettings


def corpus_folder(corpus: CorpusSettings) -> Path:
    """The folder of the recipe's manifests; built-in speech is synthesised first if it is not in the cache.

    Raises:
        InputError: the folder does not exist.
    """
    if corpus.synthetic is not None:
        return prepare_synthetic_corpus(corpus.synthetic, corpus_cache_folder(corpus.synthetic))
    folder = Path(corpus.folder or ".")
    if not folder.is_dir():
        raise InputError(f"corpus.folder: {folder} is not a folder; `arkasr data prepare` creates one")
    return folder


def load_set(settings: SetSettings, folder: Path) -> Utterances:
    """The utterances of a set.

    Raises:
        InputError: the manifest is missing or invalid, or has fewer utterances than the recipe asks for.
    """
    assert settings.manifest is not None
    path = folder / settings.manifest
    utterances = open_with_progress(path)
    if settings.language is not None:
        language = canonical_language(settings.language)
        utterances = utterances.in_language(language)
        if not utterances:
            raise InputError(f"{path} has no utterance in {language}; change the set's `language`")
    if settings.max_seconds is not None:
        limit = settings.max_seconds
        utterances = utterances.up_to(limit)
        if not utterances:
            raise InputError(f"{path} has no utterance of at most {limit:g} s; change the set's `max_seconds`")
    if settings.shuffle is not None:
        utterances = utterances.shuffled(settings.shuffle)
    if settings.first is not None:
        if settings.first > len(utterances):
            raise InputError(f"{path} has {len(utterances)} utterances; the recipe asks for the first {settings.first}")
        utterances = utterances.first(settings.first)
    return utterances.without_labels() if settings.labels == "withheld" else utterances


def open_with_progress(path: Path) -> Utterances:
    """The utterances of a manifest; shows a progress bar if it must be indexed first.

    Raises:
        InputError: the manifest is missing or invalid.
    """
    if needs_index(path):
        index_with_progress(path)
    return open_manifest(path)


def index_with_progress(path: Path, *, anew: bool = False) -> ManifestIndex:
    """Index a manifest with a progress bar; `anew` replaces an existing index.

    Raises:
        InputError: the manifest is missing or invalid.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such manifest")
    with Progress().bytes(f"index {path.name}", path.stat().st_size) as advance:
        return build_index(path, advance, anew=anew)
