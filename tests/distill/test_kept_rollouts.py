import pytest
import torch

from arkasr.distill.kept_rollouts import Rollout, prepare_rollouts
from arkasr.recognizers.decoding import Transcripts

STOP = 99


def kept(student, tokens, *, stopped):
    transcripts = Transcripts([torch.tensor(tokens)], torch.tensor([stopped]), None, passes=1)
    return prepare_rollouts(student, transcripts, [None])


@pytest.mark.parametrize("phrase", ["red", "the red book", "书", "是 the red"])
def test_a_loop_starts_at_the_second_occurrence(student, phrase):
    between = "" if phrase == "书" else " "
    looping = student.transcript_ids(f"mary{between}" + between.join([phrase] * 5))
    rollouts = kept(student, looping.tolist(), stopped=True)
    [start] = rollouts.loop_start_tokens
    assert rollouts.kept[0].loop_start_token == start
    assert student.transcript_text(looping[:start]).rstrip() == f"mary{between}{phrase}"
    assert student.transcript_text(looping[: start + 1])[-1] in f"{phrase}\N{REPLACEMENT CHARACTER}"  # its first byte
    once = [*looping[:start].tolist(), student.stop_token_id]
    assert kept(student, once, stopped=True).loop_start_tokens == [None]


def test_tokens_after_the_loop_start_are_masked_but_not_the_stop_token():
    tokens = torch.tensor([7, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, STOP])
    looping = Rollout(0, tokens, None, stopped=True, loop_start_token=6)
    assert looping.outside_loop().nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 16]
    cut_off = Rollout(0, tokens[:-1], None, stopped=False, loop_start_token=6)
    assert cut_off.outside_loop().nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert Rollout(0, tokens, None).outside_loop().all()


def test_a_reference_has_no_loop(student):
    empty = Transcripts([torch.tensor([student.stop_token_id])], torch.tensor([True]), None, passes=1)
    [rollout] = prepare_rollouts(student, empty, ["no no no no no"]).kept
    assert rollout.outside_loop().all()
