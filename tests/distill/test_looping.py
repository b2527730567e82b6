import pytest
import torch

from arkasr.distill.looping import loop_start
from arkasr.distill.rollout import Rollout

STOP = 99


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], None),
        ([STOP], None),
        ([1, 2, 3, 4, 5, STOP], None),
        # "no" eight times is said by people, nine times by models.
        ([1] * 8 + [STOP], None),
        ([1] * 9 + [STOP], 1),
        # A phrase of five: twice is said, three times is a loop. What comes behind it does not undo it.
        ([7, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, STOP], None),
        ([7, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, STOP], 6),
        ([7, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 8, 9, STOP], 6),
        # The shorter phrase of two that explain the same tokens starts over first.
        ([3, 1, 2] + [1, 2] * 6 + [STOP], 3),
        # Two loops: the first counts.
        ([1] * 10 + [2] * 10 + [STOP], 1),
        # A pattern that is not said in direct succession is none.
        ([1, 2, 5, 1, 2, 6, 1, 2, 7, 1, 2, 8, 1, 2, 9, STOP], None),
    ],
)
def test_a_loop_starts_where_a_phrase_is_said_over_again(tokens, expected):
    assert loop_start(tokens, stopped=True) == expected


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, 2, 3, 4, 1, 2, 3], None),
        ([7, 1, 2, 3, 4, 1, 2, 3, 4], 5),
        ([7, 1, 1, 1, 1], None),
        ([7, 1, 1, 1, 1, 1], 2),
        # The repetition is over before the cap: it is measured like that of a transcript that stopped.
        ([7, 1, 2, 3, 4, 1, 2, 3, 4, 8], None),
    ],
)
def test_at_the_cap_a_phrase_said_twice_is_a_loop(tokens, expected):
    assert loop_start(tokens, stopped=False) == expected


def test_what_follows_the_start_of_a_loop_is_outside_the_loss_and_the_stop_token_is_not():
    tokens = torch.tensor([7, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, STOP])
    looping = Rollout(0, tokens, None, stopped=True, loop=6)
    assert looping.outside_loop().nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 16]
    cut_off = Rollout(0, tokens[:-1], None, stopped=False, loop=6)
    assert cut_off.outside_loop().nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert Rollout(0, tokens, None).outside_loop().all()
