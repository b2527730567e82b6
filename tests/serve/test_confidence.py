import math
import time

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


def test_bytes_that_are_no_text_do_not_shift_the_words() -> None:
    pieces = [b"\xff", b" one", b"\xe4\xbb", b" two"]
    found = word_probabilities("two", pieces, [math.log(share) for share in (0.1, 0.2, 0.3, 0.4)])
    assert [probability for _, probability in found] == pytest.approx([0.4])


def test_the_work_grows_with_the_text_and_not_with_its_square() -> None:
    def seconds(words: int) -> float:
        pieces = [f" word{number}".encode() for number in range(words)]
        begin = time.process_time()
        found = word_probabilities(b"".join(pieces).decode().strip(), pieces, [-0.1] * words)
        assert len(found) == words
        return time.process_time() - begin

    seconds(100)
    assert seconds(40_000) < 40 * max(seconds(4_000), 0.001)
