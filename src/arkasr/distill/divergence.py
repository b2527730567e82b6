"""The divergence of two distributions over the same few classes (docs/objective.md, steps 5 and 6).

In: scores, −inf where a class is absent. Out: one number per position. The choice of tokens is left to others.
"""

import math

import torch
from torch import Tensor

from arkasr.distill.support import NO_PROBABILITY


def divergence_of(p_scores: Tensor, q_scores: Tensor, valid: Tensor, kind: str, beta: float) -> Tensor:
    """The divergence [N] of softmax(p_scores) and softmax(q_scores), both [N, K]; 0, without gradient, where not valid.

    Args:
        p_scores: the teacher's, −inf where a class is absent.
        q_scores: the student's, likewise.
        valid: BoolTensor [N]; the values in other rows have no effect.
        kind: "forward_kl", "reverse_kl" or "jsd".
        beta: of "jsd" only.
    """
    # Other rows may hold NaN, which must not reach a softmax: 0 · NaN is NaN in the backward pass.
    log_p = p_scores.masked_fill(~valid[:, None], 0.0).log_softmax(dim=1)
    log_q = q_scores.masked_fill(~valid[:, None], 0.0).log_softmax(dim=1)
    return torch.where(valid, _divergence(log_p, log_q, kind, beta), 0.0)


def _divergence(log_p: Tensor, log_q: Tensor, kind: str, beta: float) -> Tensor:
    """The divergence [N] from log-probabilities [N, K], −inf where a class is absent."""
    if kind == "forward_kl":
        return _kl(log_p, log_q)
    if kind == "reverse_kl":
        return _kl(log_q, log_p)
    # A logaddexp of two −inf has a NaN gradient. A class that is absent from both adds nothing to the sum.
    absent = (log_p == NO_PROBABILITY) & (log_q == NO_PROBABILITY)
    log_r = torch.logaddexp(
        log_p.masked_fill(absent, 0.0) + math.log(beta),
        log_q.masked_fill(absent, 0.0) + math.log(1 - beta),
    )
    return beta * _kl(log_p, log_r) + (1 - beta) * _kl(log_q, log_r)


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a ‖ b) [N]; a class with a = 0 adds nothing, for any b."""
    log_ratio = torch.where(log_a == NO_PROBABILITY, 0.0, log_a - log_b)
    return (log_a.exp() * log_ratio).sum(dim=1)
