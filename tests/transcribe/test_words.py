"""The words of a text."""

import pytest

from arkasr.transcribe.words import word_spans


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's red, 今天!", ["It's", "red", "今", "天"]),
        (" “Well-known” (3.5)…", ["Well-known", "3.5"]),
        ("我要3张票, please", ["我", "要", "3", "张", "票", "please"]),
        ("...", []),
        ("", []),
        ("don't_stop", ["don't_stop"]),
    ],
)
def test_words_have_no_punctuation_around_them_and_unspaced_characters_stand_alone(text, words):
    spans = word_spans(text)
    assert [span.text for span in spans] == words
    assert all(text[span.begin :].startswith(span.text) for span in spans)
