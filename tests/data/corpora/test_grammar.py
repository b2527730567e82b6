import random
import re
from collections import Counter

import pytest

from arkasr.data.corpora.grammar import Grammar
from arkasr.data.corpora.grammar_en import ENGLISH
from arkasr.data.corpora.grammar_zh import MANDARIN

TINY = {"SENTENCE": ["WHO sleeps", "WHO and WHO sleep"], "WHO": ["anna", "my WHO_ELSE"], "WHO_ELSE": ["cat"]}
TINY_SENTENCES = {
    "anna sleeps",
    "my cat sleeps",
    "anna and anna sleep",
    "anna and my cat sleep",
    "my cat and anna sleep",
    "my cat and my cat sleep",
}


def sentences(grammar: Grammar, count: int) -> list[str]:
    rng = random.Random(7)
    return [grammar.sample(rng) for _ in range(count)]


def test_samples_cover_exactly_the_derivable_sentences() -> None:
    grammar = Grammar(TINY, max_characters=100)
    assert set(sentences(grammar, 500)) == TINY_SENTENCES
    assert grammar.derivations() == len(TINY_SENTENCES)
    assert grammar.terminals == {"anna", "my", "cat", "and", "sleep", "sleeps"}


def test_longer_sentences_are_rejected_and_the_separator_is_used() -> None:
    short = Grammar(TINY, max_characters=13)
    assert set(sentences(short, 200)) == {"anna sleeps", "my cat sleeps"}
    joined = Grammar(TINY, max_characters=13, separator="")
    assert "mycatsleeps" in sentences(joined, 200)


def test_a_missing_rule_is_named() -> None:
    with pytest.raises(ValueError, match="rule SENTENCE names NOBODY"):
        Grammar({"SENTENCE": ["NOBODY sleeps"]}, max_characters=10)


def test_equal_seeds_give_equal_sentences() -> None:
    assert sentences(ENGLISH, 20) == sentences(ENGLISH, 20)


@pytest.mark.parametrize(("grammar", "least"), [(ENGLISH, 500_000), (MANDARIN, 100_000)])
def test_the_grammar_has_far_more_sentences_than_a_corpus_needs(grammar: Grammar, least: int) -> None:
    sampled = sentences(grammar, 4000)
    assert grammar.derivations() > least
    assert len(set(sampled)) > 0.5 * len(sampled)


def test_english_is_small_and_grammatical() -> None:
    sampled = sentences(ENGLISH, 4000)
    assert 60 <= len(ENGLISH.terminals) <= 90
    assert all(re.fullmatch(r"[a-z]+( [a-z]+){2,10}", sentence) for sentence in sampled)
    wrong = re.compile(
        r"(?<!ty )\bone (\w+ )?(books|tickets|cups|apples)\b|\b(two|ten|thirty) (book|ticket|cup)\b"
        r"|\b(we|they) (needs|wants|goes|lives|comes)\b|^(mary|john|anna) (need|want|go|live|come|leave)\b"
    )
    assert [sentence for sentence in sampled if wrong.search(sentence)] == []
    words = Counter(word for sentence in sampled for word in sentence.split())
    assert {"thirteen", "thirty", "fifteen", "fifty", "june", "july"} <= words.keys()
    assert min(words[word] for word in ENGLISH.terminals) > 30


def test_mandarin_is_small_and_uses_its_measure_words() -> None:
    sampled = sentences(MANDARIN, 4000)
    characters = Counter("".join(sampled))
    assert 60 <= len(characters) <= 90
    assert all(re.fullmatch(r"[\u4e00-\u9fff]{4,11}", sentence) for sentence in sampled)
    assert [s for s in sampled if re.search("杯(书|票|鱼|苹果)|本(茶|票|鱼|新票)|张书|个书|二(杯|本|张|斤|个)", s)] == [
        s for s in sampled if re.search("十二(杯|本|张|斤|个)", s)
    ]
    assert {"四", "十", "买", "卖", "七", "一"} <= characters.keys()
    assert min(characters.values()) > 15
