import hashlib
from collections import Counter

import pytest

from arkasr.data.corpora.plan import TEST_SETS, Line, SetPlan, SyntheticCorpusConfig, plan_corpus
from arkasr.data.corpora.synthetic import GENERATOR_VERSION
from arkasr.errors import InputError

GOLDEN_VERSION = 5
GOLDEN_DIGEST = "c06a9c43068bb267"


@pytest.fixture(scope="module")
def plans() -> dict[str, SetPlan]:
    return plan_corpus(SyntheticCorpusConfig())


def units(line: Line) -> list[str]:
    return line.text.split() if line.speaker.language == "English" else list(line.text)


def test_the_sets_have_the_sizes_asked_for(plans: dict[str, SetPlan]) -> None:
    sizes = {name: len(plan.lines) for name, plan in plans.items()}
    assert sizes == {"train": 6000, "dev": 120, **dict.fromkeys(TEST_SETS, 100)}
    ids = [line.id for plan in plans.values() for line in plan.lines]
    assert len(set(ids)) == len(ids)


def test_no_sentence_is_in_two_sets(plans: dict[str, SetPlan]) -> None:
    held_out = [line.text for name, plan in plans.items() if name != "train" for line in plan.lines]
    assert len(set(held_out)) == len(held_out)
    heard_in_train = {line.text for line in plans["train"].lines} | {text for text, _ in plans["train"].babble}
    assert heard_in_train.isdisjoint(held_out)


def test_no_speaker_and_no_vocal_tract_is_in_two_of_train_dev_and_test(plans: dict[str, SetPlan]) -> None:
    def voices(*names: str) -> tuple[set[str], set[str]]:
        speakers = {line.speaker for name in names for line in plans[name].lines}
        speakers |= {speaker for name in names for _, speaker in plans[name].babble}
        return {speaker.id for speaker in speakers}, {speaker.voice.variant for speaker in speakers}

    parts = [voices("train"), voices("dev"), voices(*TEST_SETS)]
    for kind in (0, 1):
        sets = [part[kind] for part in parts]
        assert sum(map(len, sets)) == len(set.union(*sets))
    assert [len(ids) for ids, _ in parts] == [48, 8, 24]
    assert {line.speaker.id for line in plans["en-clean"].lines}.isdisjoint(
        line.speaker.id for line in plans["en-other"].lines
    )


def test_every_word_of_dev_and_test_is_learnt_often_enough(plans: dict[str, SetPlan]) -> None:
    learnt = Counter(unit for line in plans["train"].lines for unit in units(line))
    asked = {unit for name in (*TEST_SETS, "dev") for line in plans[name].lines for unit in units(line)}
    assert min(learnt[unit] for unit in asked) >= 20


@pytest.mark.parametrize("first", [96, 480, 2400])
def test_the_first_lines_of_train_are_a_balanced_share(first: int, plans: dict[str, SetPlan]) -> None:
    lines = plans["train"].lines[:first]
    assert Counter(line.speaker.language for line in lines) == {"English": first // 2, "Chinese": first // 2}
    assert set(Counter(line.speaker.id for line in lines).values()) == {first // 48}
    clean = sum(line.condition.name == "clean" for line in lines) / first
    assert clean == pytest.approx(0.5, abs=0.12)


def test_a_larger_corpus_begins_with_the_smaller_one(plans: dict[str, SetPlan]) -> None:
    smaller = plan_corpus(SyntheticCorpusConfig(train_utterances=100))
    assert smaller["train"].lines == plans["train"].lines[:100]
    assert all(smaller[name] == plans[name] for name in TEST_SETS)


def test_another_seed_is_another_corpus(plans: dict[str, SetPlan]) -> None:
    other = plan_corpus(SyntheticCorpusConfig(seed=1, train_utterances=200))
    pairs = zip(other["train"].lines, plans["train"].lines, strict=False)
    assert sum(a.text == b.text or a.seed == b.seed for a, b in pairs) < 20


def test_the_test_sets_are_recorded_as_their_names_say(plans: dict[str, SetPlan]) -> None:
    conditions = {name: {line.condition.name for line in plans[name].lines} for name in TEST_SETS}
    assert conditions == {
        "en-clean": {"clean"},
        "en-other": {"noise"},
        "zh-read": {"clean"},
        "zh-meeting": {"room+babble"},
        "zh-net": {"telephone", "opus", "mp3"},
    }
    trained = {line.condition for line in plans["train"].lines if line.condition.name != "clean"}
    tested = {line.condition for name in TEST_SETS for line in plans[name].lines}
    assert trained.isdisjoint(tested)


def test_whoever_changes_the_corpus_raises_its_version(plans: dict[str, SetPlan]) -> None:
    digest = hashlib.sha256(repr(plans).encode()).hexdigest()
    assert (GENERATOR_VERSION, digest[:16]) == (GOLDEN_VERSION, GOLDEN_DIGEST), (
        "raise GENERATOR_VERSION, so that nobody takes an old corpus from the cache for the new one, "
        "and write both new values here"
    )


@pytest.mark.parametrize("name", ["train_utterances", "dev_utterances", "test_utterances"])
def test_an_empty_set_is_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is 0"):
        SyntheticCorpusConfig(**{name: 0})
