import math

import pytest

from arkasr.serve.confidence import word_probabilities


def test_a_word_has_the_probability_of_all_its_tokens() -> None:
    pieces = [b" The", b" mus", b"ic", b",", b" Shelley"]
    scores = [math.log(share) for share in (0.9, 0.8, 0.5, 0.1, 0.7)]
    found = word_probabilities("The music, Shelley", pieces, scores)
    assert [span.text for span, _ in found] == ["The", "music", "Shelley"]
    assert [probability for _, probability in found] == pytest.approx([0.9, 0.4, 0.7])


def test_characters_of_several_tokens() -> None:
    """Each character of a script without spaces is a word; its bytes may be in several tokens."""
    today = "今天".encode()
    pieces = [today[:2], today[2:4], today[4:]]
    found = word_probabilities("今天", pieces, [math.log(share) for share in (0.5, 0.5, 0.8)])
    assert [probability for _, probability in found] == pytest.approx([0.25, 0.4])


def test_a_text_that_was_changed_has_no_probabilities() -> None:
    found = word_probabilities("two words", [b" two", b"  words"], [-0.1, -0.1])
    assert [probability for _, probability in found] == [None, None]
    assert word_probabilities("", [b" "], [-0.1]) == []
