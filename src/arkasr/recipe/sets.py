"""The sets of a recipe as lists of utterances: read, shuffled, cut to size, labels withheld where it says so."""

import random
from dataclasses import replace
from pathlib import Path

from arkasr.data.corpora.synthetic import corpus_cache_folder, prepare_synthetic_corpus
from arkasr.data.examples import seconds_of
from arkasr.data.languages import canonical_language
from arkasr.data.manifest import Utterance, read_manifest
from arkasr.errors import InputError
from arkasr.recipe.settings import CorpusSettings, SetSettings


def corpus_folder(corpus: CorpusSettings) -> Path:
    """The folder of the recipe's manifests; the built-in speech is synthesised first if it is not there yet.

    Raises:
        InputError: the folder does not exist.
    """
    if corpus.synthetic is not None:
        return prepare_synthetic_corpus(corpus.synthetic, corpus_cache_folder(corpus.synthetic))
    folder = Path(corpus.folder or ".")
    if not folder.is_dir():
        raise InputError(f"corpus.folder: {folder} is not a folder; `arkasr data prepare` makes one")
    return folder


def load_set(settings: SetSettings, folder: Path) -> list[Utterance]:
    """The utterances of a set.

    Raises:
        InputError: the manifest is missing, wrong, or shorter than the recipe asks for.
    """
    path = folder / settings.manifest
    utterances = read_manifest(path)
    if settings.language is not None:
        language = canonical_language(settings.language)
        utterances = [utterance for utterance in utterances if utterance.language == language]
        if not utterances:
            raise InputError(f"{path} has no utterance in {language}; change the set's `language`")
    if settings.max_seconds is not None:
        longest = settings.max_seconds
        utterances = [item for item in utterances if _may_be_heard(item, longest)]
        if not utterances:
            raise InputError(f"{path} has no utterance of at most {longest:g} s; change the set's `max_seconds`")
    if settings.shuffle is not None:
        random.Random(settings.shuffle).shuffle(utterances)
    if settings.first is not None:
        if settings.first > len(utterances):
            raise InputError(f"{path} has {len(utterances)} utterances; the recipe asks for the first {settings.first}")
        utterances = utterances[: settings.first]
    if settings.labels == "withheld":
        utterances = [withhold_label(utterance) for utterance in utterances]
    return utterances


def _may_be_heard(utterance: Utterance, longest: float) -> bool:
    """Whether an utterance is short enough; one that cannot be measured is left to who hears it, and says so."""
    try:
        return seconds_of(utterance) <= longest
    except InputError:
        return True


def withhold_label(utterance: Utterance) -> Utterance:
    """The same audio without its text, in the fields that pass through as well."""
    fields = {name: value for name, value in utterance.fields.items() if name != "text"}
    return replace(utterance, text=None, fields=fields)
