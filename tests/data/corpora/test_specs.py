import hashlib
from collections import Counter
from dataclasses import astuple

import pytest

from arkasr.data.corpora.specs import TEST_SETS, SetSpec, SyntheticCorpusConfig, UtteranceSpec, corpus_specs
from arkasr.data.corpora.synthetic import GENERATOR_VERSION
from arkasr.errors import InputError

GOLDEN_VERSION = 5
GOLDEN_DIGEST = "6631ba91e9b0d923"


@pytest.fixture(scope="module")
def specs() -> dict[str, SetSpec]:
    return corpus_specs(SyntheticCorpusConfig())


def units(utterance: UtteranceSpec) -> list[str]:
    return utterance.text.split() if utterance.speaker.language == "English" else list(utterance.text)


def test_the_sets_have_the_sizes_asked_for(specs: dict[str, SetSpec]) -> None:
    sizes = {name: len(spec.utterances) for name, spec in specs.items()}
    assert sizes == {"train": 6000, "dev": 120, **dict.fromkeys(TEST_SETS, 100)}
    ids = [utterance.id for spec in specs.values() for utterance in spec.utterances]
    assert len(set(ids)) == len(ids)


def test_no_sentence_is_in_two_sets(specs: dict[str, SetSpec]) -> None:
    held_out = [utterance.text for name, spec in specs.items() if name != "train" for utterance in spec.utterances]
    assert len(set(held_out)) == len(held_out)
    train = specs["train"]
    train_sentences = {utterance.text for utterance in train.utterances} | {text for text, _ in train.babble}
    assert train_sentences.isdisjoint(held_out)


def test_train_dev_and_test_share_no_speaker_and_no_vocal_tract(specs: dict[str, SetSpec]) -> None:
    def voices(*names: str) -> tuple[set[str], set[str]]:
        speakers = {utterance.speaker for name in names for utterance in specs[name].utterances}
        speakers |= {speaker for name in names for _, speaker in specs[name].babble}
        return {speaker.id for speaker in speakers}, {speaker.voice.variant for speaker in speakers}

    parts = [voices("train"), voices("dev"), voices(*TEST_SETS)]
    for kind in (0, 1):
        sets = [part[kind] for part in parts]
        assert sum(map(len, sets)) == len(set.union(*sets))
    assert [len(ids) for ids, _ in parts] == [48, 8, 24]
    assert {utterance.speaker.id for utterance in specs["en-clean"].utterances}.isdisjoint(
        utterance.speaker.id for utterance in specs["en-other"].utterances
    )


def test_every_word_of_dev_and_test_is_frequent_in_train(specs: dict[str, SetSpec]) -> None:
    train_counts = Counter(unit for utterance in specs["train"].utterances for unit in units(utterance))
    needed = {unit for name in (*TEST_SETS, "dev") for utterance in specs[name].utterances for unit in units(utterance)}
    assert min(train_counts[unit] for unit in needed) >= 20


@pytest.mark.parametrize("first", [96, 480, 2400])
def test_any_prefix_of_train_is_balanced(first: int, specs: dict[str, SetSpec]) -> None:
    utterances = specs["train"].utterances[:first]
    languages = Counter(utterance.speaker.language for utterance in utterances)
    assert languages == {"English": first // 2, "Chinese": first // 2}
    assert set(Counter(utterance.speaker.id for utterance in utterances).values()) == {first // 48}
    clean = sum(utterance.condition.name == "clean" for utterance in utterances) / first
    assert clean == pytest.approx(0.5, abs=0.12)


def test_a_larger_corpus_begins_with_the_smaller_one(specs: dict[str, SetSpec]) -> None:
    smaller = corpus_specs(SyntheticCorpusConfig(train_utterances=100))
    assert smaller["train"].utterances == specs["train"].utterances[:100]
    assert all(smaller[name] == specs[name] for name in TEST_SETS)


def test_another_seed_gives_another_corpus(specs: dict[str, SetSpec]) -> None:
    other = corpus_specs(SyntheticCorpusConfig(seed=1, train_utterances=200))
    pairs = zip(other["train"].utterances, specs["train"].utterances, strict=False)
    assert sum(a.text == b.text or a.seed == b.seed for a, b in pairs) < 20


def test_the_conditions_of_test_sets_are_not_in_train(specs: dict[str, SetSpec]) -> None:
    conditions = {name: {utterance.condition.name for utterance in specs[name].utterances} for name in TEST_SETS}
    assert conditions == {
        "en-clean": {"clean"},
        "en-other": {"noise"},
        "zh-read": {"clean"},
        "zh-meeting": {"room+babble"},
        "zh-net": {"telephone", "opus", "mp3"},
    }
    trained = {utterance.condition for utterance in specs["train"].utterances if utterance.condition.name != "clean"}
    tested = {utterance.condition for name in TEST_SETS for utterance in specs[name].utterances}
    assert trained.isdisjoint(tested)


def test_a_changed_corpus_needs_a_new_version(specs: dict[str, SetSpec]) -> None:
    plain = {name: astuple(spec) for name, spec in specs.items()}
    digest = hashlib.sha256(repr(plain).encode()).hexdigest()
    assert (GENERATOR_VERSION, digest[:16]) == (GOLDEN_VERSION, GOLDEN_DIGEST), (
        "raise GENERATOR_VERSION, so that nobody takes an old corpus from the cache for the new one, "
        "and write both new values here"
    )


@pytest.mark.parametrize("name", ["train_utterances", "dev_utterances", "test_utterances"])
def test_an_empty_set_is_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is 0"):
        SyntheticCorpusConfig(**{name: 0})
