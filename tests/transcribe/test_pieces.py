from itertools import pairwise

import numpy as np
import pytest

from arkasr.transcribe.pieces import pieces_of
from arkasr.transcribe.speech import FRAME_SAMPLES, SampleRange

MAXIMUM = 160_000


def random_speech(seed):
    """Sample ranges and pauses of many lengths, and the probabilities of their frames."""
    generator = np.random.default_rng(seed)
    ranges, position = [], 0
    for _ in range(40):
        position += int(generator.choice([0, 1, 3_000, 20_000, 100_000]))
        length = int(generator.choice([600, 8_000, 60_000, 159_999, 160_000, 160_001, 700_000]))
        ranges.append(SampleRange(position, position + length))
        position += length
    return ranges, generator.random(-(-position // FRAME_SAMPLES)).astype(np.float32)


@pytest.mark.parametrize("seed", range(20))
def test_all_speech_is_in_exactly_one_piece_and_no_piece_is_too_long(seed):
    speech, probabilities = random_speech(seed)
    pieces = pieces_of(speech, probabilities, MAXIMUM)
    assert all(0 < piece.samples <= MAXIMUM for piece in pieces)
    assert all(before.end <= after.begin for before, after in pairwise(pieces))
    held = np.zeros(speech[-1].end, dtype=np.int8)
    for piece in pieces:
        held[piece.begin : piece.end] += 1
    for part in speech:
        assert (held[part.begin : part.end] == 1).all()


def test_short_speech_is_joined_and_a_long_pause_is_left_out():
    speech = [SampleRange(0, 16_000), SampleRange(20_000, 30_000), SampleRange(90_000, 100_000)]
    assert pieces_of(speech, np.ones(200), MAXIMUM) == [SampleRange(0, 30_000), SampleRange(90_000, 100_000)]


def test_the_cut_is_at_the_longest_pause_of_the_second_half():
    begins = (0, 41_000, 81_500, 130_000, 171_000)  # pauses of 1,000, 500, 8,500 and 1,000 samples
    speech = [SampleRange(begin, begin + 40_000) for begin in begins]
    assert pieces_of(speech, np.ones(400), 172_000) == [SampleRange(0, 121_500), SampleRange(130_000, 211_000)]


def test_speech_without_a_pause_is_cut_where_speech_is_least_likely():
    probabilities = np.ones(700, dtype=np.float32)
    probabilities[[100, 200, 420]] = 0.6
    probabilities[195:204] = 0.7
    first, second, third = pieces_of([SampleRange(0, 700 * FRAME_SAMPLES)], probabilities, 300 * FRAME_SAMPLES)
    assert first.begin == 0
    assert first.end // FRAME_SAMPLES in range(196, 204)
    assert second.end // FRAME_SAMPLES in range(417, 424)
    assert (second.begin, third.begin, third.end) == (first.end, second.end, 700 * FRAME_SAMPLES)


def test_no_speech_gives_no_pieces():
    assert pieces_of([], np.zeros(100), MAXIMUM) == []
