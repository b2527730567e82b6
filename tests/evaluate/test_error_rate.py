import random

import pytest

from arkasr.evaluate.error_rate import align_tokens, count_errors
from arkasr.evaluate.normalize import get_profile
from arkasr.evaluate.scoring import Prediction, results_row, score


def edit_distance(reference, hypothesis):
    """The textbook recurrence, row by row."""
    row = list(range(len(hypothesis) + 1))
    for i, expected in enumerate(reference, start=1):
        previous, row = row, [i]
        for j, written in enumerate(hypothesis, start=1):
            row.append(min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (expected != written)))
    return row[-1]


@pytest.mark.parametrize("unit", ["word", "character"])
def test_errors_equal_the_edit_distance(unit):
    chance = random.Random(0)
    for _ in range(300):
        reference = " ".join(chance.choices(["a", "bc", "d", "今天"], k=chance.randrange(7)))
        hypothesis = " ".join(chance.choices(["a", "bc", "d", "天"], k=chance.randrange(7)))
        expected = reference.split() if unit == "word" else reference.replace(" ", "")
        written = hypothesis.split() if unit == "word" else hypothesis.replace(" ", "")
        count = count_errors(reference, hypothesis, unit)
        assert count.errors == edit_distance(expected, written)
        assert count.reference_tokens == len(expected)


def test_an_alignment_contains_both_texts():
    chance = random.Random(1)
    for _ in range(100):
        reference = " ".join(chance.choices("abcd", k=chance.randrange(8)))
        hypothesis = " ".join(chance.choices("abcd", k=chance.randrange(8)))
        columns = align_tokens(reference, hypothesis, "word")
        assert [c.reference for c in columns if c.reference is not None] == reference.split()
        assert [c.hypothesis for c in columns if c.hypothesis is not None] == hypothesis.split()
        for column in columns:
            assert (column.kind == "equal") == (column.reference == column.hypothesis)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [("", "two words", (0, 0, 2, 0)), ("two words", "", (0, 2, 0, 2)), ("", "", (0, 0, 0, 0))],
)
def test_empty_texts(reference, hypothesis, expected):
    count = count_errors(reference, hypothesis, "word")
    assert (count.substitutions, count.deletions, count.insertions, count.reference_tokens) == expected


def test_characters_are_counted_without_spaces():
    assert count_errors("今天 去", "今天去", "character").errors == 0


def test_failed_utterances_are_counted_separately_and_empty_references_count_insertions():
    predictions = [
        Prediction("right", "one two", "one two"),
        Prediction("failed", "three four five", None),
        Prediction("silence", "", "noise heard"),
        Prediction("unlabelled", None, "six"),
    ]
    result = score(predictions, profile=get_profile("basic"), unit="word", samples=100)
    assert (result.errors, result.reference_tokens, result.failed, result.unscored) == (2, 2, 1, 1)
    assert result.rate == 1.0
    row = results_row("base", 0, "en-clean", result)
    assert {
        "variant",
        "seed",
        "set",
        "metric",
        "errors",
        "reference_tokens",
        "rate",
        "ci95",
        "utterances",
    } <= row.keys()
    assert (row["metric"], row["utterances"], row["failed"], row["normalizer"]) == ("wer", 2, 1, "basic@2")


def test_a_set_without_any_reference_token_has_no_rate():
    result = score([Prediction("a", "", "noise")], profile=get_profile("basic"), unit="word")
    assert result.rate is None
    assert result.ci95 is None
    assert result.errors == 1
