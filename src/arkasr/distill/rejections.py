"""Positions after a token that the teacher rejects (docs/objective.md, "After a rejected token").

In: the teacher's scores of a rollout. Out: which positions count. After a token that it would not have written, a
teacher's answer is about a transcript that it has never met.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from arkasr.recognizers.device import to_device
from arkasr.recognizers.head import top_tokens
from arkasr.recognizers.head_scores import token_scores
from arkasr.recognizers.precision import working_dtype
from arkasr.teacher.teacher import DenseScores, SparseScores, TeacherScores


@torch.no_grad()
def teacher_log_probs(teacher: TeacherScores, ids: Tensor, allowed: Tensor) -> Tensor:
    """The teacher's log-probabilities [N] of one token at each position.

    Args:
        teacher: its scores at N positions. A served teacher's are over its whole vocabulary.
        ids: LongTensor [N], teacher ids, on the host; with `DenseScores` student ids.
        allowed: A_T, BoolTensor [V_T], on the host. Other tokens have the log-probability −inf.
    """
    if isinstance(teacher, DenseScores):
        return teacher.log_probs.gather(1, to_device(ids, teacher.log_probs.device)[:, None])[:, 0]
    forbidden = ~allowed[ids]
    if isinstance(teacher, SparseScores):
        device = teacher.log_probs.device
        log_probs = teacher.log_probs_of(to_device(ids, device)[:, None])[:, 0]
    else:
        device, dtype = teacher.hidden.device, working_dtype(teacher.hidden)
        top = teacher.top
        if top is None:
            top = top_tokens(teacher.hidden, teacher.head, allowed, 1, dtype)
        scores = token_scores(teacher.hidden, teacher.head, to_device(ids, device)[:, None], dtype)[:, 0]
        log_probs = scores - top.log_normaliser.to(dtype)
    return log_probs.masked_fill(to_device(forbidden, device), -math.inf)


def after_accepted_token(rejected: Tensor, lengths: Sequence[int]) -> Tensor:
    """Whether the token before each position is not rejected, BoolTensor [N]; True at the start of every rollout.

    Args:
        rejected: BoolTensor [N], rollout after rollout.
        lengths: of the rollouts; they add up to N.
    """
    starts = torch.zeros(len(rejected), dtype=torch.bool)
    starts[torch.tensor([0, *lengths[:-1]]).cumsum(0)] = True
    return to_device(starts, rejected.device) | ~rejected.roll(1)
