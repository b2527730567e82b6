import numpy as np
import pytest

from arkasr.serve.live.tracker import MARGIN_FRAMES, Ended, SpeechTracker, Started
from arkasr.transcribe.speech import FRAME_SAMPLES


def tracker(pattern, *, pause=10, longest=100):
    """Follows a stream whose n-th frame has the probability `pattern[n]`, and whose samples are their own numbers."""
    probabilities = iter(pattern)
    return SpeechTracker(
        lambda frame: next(probabilities),
        pause_seconds=pause * FRAME_SAMPLES / 16_000,
        longest_seconds=longest * FRAME_SAMPLES / 16_000,
    )


def changes(pattern, sizes=(FRAME_SAMPLES,), *, finish=False, **options):
    following, found = tracker(pattern, **options), []
    stream, place, number = np.arange(len(pattern) * FRAME_SAMPLES, dtype=np.float32), 0, 0
    while place < len(stream):
        size = sizes[number % len(sizes)]
        found += following.add(stream[place : place + size])
        place, number = place + size, number + 1
    return found + (list(following.finish()) if finish else [])


QUIET, LOUD = [0.0], [1.0]


def test_an_utterance_has_margins_and_ends_at_a_pause():
    started, ended = changes(QUIET * 30 + LOUD * 20 + QUIET * 30)
    assert isinstance(started, Started)
    first = (30 - MARGIN_FRAMES) * FRAME_SAMPLES
    assert started.begin == ended.begin == first
    assert ended.samples[0] == first
    assert len(ended.samples) == (20 + 2 * MARGIN_FRAMES) * FRAME_SAMPLES
    assert np.array_equal(ended.samples, first + np.arange(len(ended.samples)))


def test_a_click_is_no_speech():
    assert changes(QUIET * 20 + LOUD + QUIET * 20 + LOUD + QUIET * 20) == []


def test_a_short_pause_does_not_end_an_utterance():
    found = changes(QUIET * 10 + LOUD * 20 + QUIET * 9 + LOUD * 20 + QUIET * 30)
    assert [type(change) for change in found] == [Started, Ended]


@pytest.mark.parametrize("sizes", [(1,), (100, 3, 777), (FRAME_SAMPLES * 50,)])
def test_the_sizes_of_messages_do_not_matter(sizes):
    pattern = QUIET * 12 + LOUD * 5 + QUIET * 14 + LOUD * 4 + [0.4] * 20 + QUIET * 3
    if sizes == (1,):
        pattern = pattern[:20] + QUIET * 11
    expected = changes(pattern, finish=True)
    found = changes(pattern, sizes, finish=True)
    assert [(type(one), one.begin) for one in found] == [(type(one), one.begin) for one in expected]
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, Ended):
            assert np.array_equal(one.samples, other.samples)


def test_two_utterances_share_no_sample():
    found = changes(QUIET * 10 + LOUD * 10 + QUIET * 11 + LOUD * 10 + QUIET * 40)
    _, first, _, second = found
    assert first.samples[-1] < second.samples[0]


def test_long_speech_is_cut_where_it_is_least_likely_and_nothing_is_lost():
    speech = [1.0] * 70 + [0.6] * 3 + [1.0] * 150
    found = changes(speech, longest=100, finish=True)
    assert isinstance(found[0], Started)
    utterances = [change for change in found if isinstance(change, Ended)]
    assert [utterance.goes_on for utterance in utterances] == [True] * (len(utterances) - 1) + [False]
    assert abs(len(utterances[0].samples) / FRAME_SAMPLES - 71) <= 3
    assert all(len(utterance.samples) <= 100 * FRAME_SAMPLES for utterance in utterances)
    whole = np.concatenate([utterance.samples for utterance in utterances])
    assert np.array_equal(whole, np.arange(len(speech) * FRAME_SAMPLES))


def test_memory_is_bounded_in_silence_and_in_speech():
    for pattern in (QUIET * 5_000, LOUD * 5_000):
        following = tracker(pattern)
        for _ in range(50):
            list(following.add(np.zeros(100 * FRAME_SAMPLES, dtype=np.float32)))
            assert len(following._frames) <= 100


def test_finish_gives_the_last_samples_too():
    following = tracker(LOUD * 20)
    list(following.add(np.arange(20 * FRAME_SAMPLES + 100, dtype=np.float32)))
    (ended,) = following.finish()
    assert len(ended.samples) == 20 * FRAME_SAMPLES + 100
    assert following.open_samples is None
    assert list(following.finish()) == []
