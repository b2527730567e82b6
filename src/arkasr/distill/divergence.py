"""How far apart two distributions over the same few classes are (docs/objective.md, steps 5 and 6).

In: scores, −inf where a class is absent. Out: one number a position. Knows nothing of tokens.
"""

import math

import torch
from torch import Tensor

from arkasr.distill.support import NO_PROBABILITY

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")


def divergence_of(p_scores: Tensor, q_scores: Tensor, valid: Tensor, kind: str, beta: float) -> Tensor:
    """The divergence [N] of softmax(p_scores) and softmax(q_scores), both [N, K]; 0, without gradient, where not valid.

    Args:
        p_scores: of the teacher, −inf where a class is absent.
        q_scores: of the student.
        valid: BoolTensor [N]; what stands in other rows has no effect.
        kind: one of `DIVERGENCES`.
        beta: of "jsd" only.
    """
    # What stands in other rows must not reach a softmax: 0 · NaN is NaN in the backward pass.
    log_p = p_scores.masked_fill(~valid[:, None], 0.0).log_softmax(dim=1)
    log_q = q_scores.masked_fill(~valid[:, None], 0.0).log_softmax(dim=1)
    return torch.where(valid, _divergence(log_p, log_q, kind, beta), 0.0)


def _divergence(log_p: Tensor, log_q: Tensor, divergence: str, beta: float) -> Tensor:
    """Divergence [N] of distributions given by their logarithms [N, K], −inf where a class is absent."""
    if divergence == "forward_kl":
        return _kl(log_p, log_q)
    if divergence == "reverse_kl":
        return _kl(log_q, log_p)
    # A logaddexp of two −inf has a NaN gradient; a class that is absent on both sides adds nothing anyway.
    absent = (log_p == NO_PROBABILITY) & (log_q == NO_PROBABILITY)
    log_m = torch.logaddexp(
        log_p.masked_fill(absent, 0.0) + math.log(beta),
        log_q.masked_fill(absent, 0.0) + math.log(1 - beta),
    )
    return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a ‖ b) [N]; a class with a = 0 adds nothing, whatever b is."""
    log_ratio = torch.where(log_a == NO_PROBABILITY, 0.0, log_a - log_b)
    return (log_a.exp() * log_ratio).sum(dim=1)
