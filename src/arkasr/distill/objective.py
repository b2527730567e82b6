"""The objective of on-policy distillation (docs/objective.md; paper, equation 1): the dense reference.

In: student and teacher logits, one row a position. Out: the divergence at every position, and what
it was taken over. Knows nothing of sequences, batches or ranks: the mean over a step is the caller's.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from arkasr.distill.divergence import DIVERGENCES, divergence_of
from arkasr.distill.support import (
    NO_PROBABILITY,
    SUPPORTS,
    Support,
    build_support,
    invert_map,
    log_probabilities,
    look_up,
    members,
    restrict,
    same_ids,
    working_dtype,
)
from arkasr.errors import InputError

TAILS = ("none", "bucket")


@dataclass(frozen=True, slots=True)
class ModelView:
    """What one model thinks at N positions, over all its allowed tokens at temperature 1; carries no gradient.

    Attributes:
        log_probs: [N, K], of the candidates of `UnionTopkKL.support`; means nothing in a slot without one.
        entropy: [N], nats.
        best: LongTensor [N], the most probable token in the model's own ids.
    """

    log_probs: Tensor
    entropy: Tensor
    best: Tensor


@dataclass(frozen=True, slots=True)
class UnionTopkKL:
    """What `union_topk_kl` returns for N positions.

    Attributes:
        loss: scalar, mean of `per_position` over the valid positions; without any, 0 with a zero gradient.
        per_position: [N], τ² times the divergence of p_t and q_t; 0 where not valid.
        valid: BoolTensor [N], step 4.
        support_size: LongTensor [N], |U_t|.
        overlap: LongTensor [N], |K^T_t ∩ K^S_t|.
        teacher_tail_mass: [N], probability that the teacher, over A_T and at temperature 1, gives to tokens
            outside U_t, those without a counterpart among them; 0 where not valid.
        student_tail_mass: [N], the same of the student, over A_S; carries no gradient.
        support: the tokens themselves.
        teacher: what the teacher thinks.
        student: what the student thinks.
    """

    loss: Tensor
    per_position: Tensor
    valid: Tensor
    support_size: Tensor
    overlap: Tensor
    teacher_tail_mass: Tensor
    student_tail_mass: Tensor
    support: Support
    teacher: ModelView
    student: ModelView


def union_topk_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    top_k: int = 32,
    temperature: float = 1.0,
    teacher_to_student: Tensor | None = None,
    student_allowed: Tensor | None = None,
    teacher_allowed: Tensor | None = None,
    student_support: Tensor | None = None,
    generated: Tensor | None = None,
    divergence: str = "forward_kl",
    support: str = "union",
    tail: str = "none",
    beta: float = 0.5,
    upstream_scores: bool = False,
) -> UnionTopkKL:
    """τ² KL(p_t ‖ q_t) over the union of the teacher's and the student's top-k.

    Computed in float32, or in float64 when either side is float64. The gradient flows into `student_logits`
    only and is exactly zero in rows that are not valid, whatever they hold. A logit of −inf is a token that
    is not allowed.

    Args:
        student_logits: S [N, V_S], scores for the token at each position, given the audio and the tokens
            before.
        teacher_logits: T [N, V_T], of the same positions.
        top_k: k, tokens taken from each side.
        temperature: τ, applied on the support.
        teacher_to_student: m, LongTensor [V_T], −1 = unmapped; None = same ids.
        student_allowed: A_S, BoolTensor [V_S]; None = all.
        teacher_allowed: A_T, BoolTensor [V_T]; None = all.
        student_support: LongTensor [N, k], the student's top-k at rollout time, −1 = empty slot; None = top-k
            of S over A_S.
        generated: y, LongTensor [N]; a position is valid only if y_t has a counterpart, which −1 never has.
            None = no condition on it.
        divergence: "forward_kl" KL(p ‖ q), "reverse_kl" KL(q ‖ p), or "jsd".
        support: "union", "teacher", "student", "intersection" or "full"; see `build_support`.
        tail: "none", or "bucket": all that lies outside U_t is one more class, formed at temperature τ, so
            that p_t and q_t are the full distributions of that temperature with their tails merged.
        beta: of "jsd" only: β KL(p ‖ m) + (1 − β) KL(q ‖ m) with m = β p + (1 − β) q.
        upstream_scores: score the teacher's own top-k by its raw logits and all other tokens by its
            log-probabilities, as the published training code does; for comparison only.

    Raises:
        InputError: an option that does not exist or a value outside its range, named by its key in a config.
        ValueError: tensors that do not fit together.
    """
    check_options(top_k, temperature, divergence, support, tail, beta, upstream_scores)
    positions, student_vocab = student_logits.shape
    teacher_vocab = teacher_logits.shape[1]
    _check_shape("teacher_logits", teacher_logits, positions, teacher_vocab)
    _check_shape("teacher_to_student", teacher_to_student, teacher_vocab)
    _check_shape("student_allowed", student_allowed, student_vocab)
    _check_shape("teacher_allowed", teacher_allowed, teacher_vocab)
    _check_shape("generated", generated, positions)
    dtype = working_dtype(student_logits, teacher_logits)
    if teacher_to_student is None:
        teacher_to_student = same_ids(teacher_vocab, student_vocab, student_logits.device)
    student_to_teacher = invert_map(teacher_to_student, student_vocab)

    # Step 1: l^T_t, over the teacher's whole allowed vocabulary.
    teacher_scores = restrict(teacher_logits.detach(), teacher_allowed, dtype)
    teacher_log_probs = log_probabilities(teacher_scores)
    student_scores = restrict(student_logits, student_allowed, dtype)

    # Steps 2 and 3: K^T_t, K^S_t and U_t.
    u = build_support(
        teacher_log_probs,
        student_scores.detach(),
        teacher_to_student=teacher_to_student,
        student_to_teacher=student_to_teacher,
        top_k=top_k,
        student_support=student_support,
        generated=generated,
        support=support,
    )
    in_u_of_teacher = members(u.teacher_ids, u.mask, teacher_vocab)
    in_u_of_student = members(u.student_ids, u.mask, student_vocab)

    # Step 4: the valid positions.
    valid = u.size >= 2
    if generated is not None:
        valid = valid & (look_up(student_to_teacher, generated.long()) >= 0)

    # Step 5: p_t and q_t, renormalised on U_t.
    p_scores = teacher_log_probs.gather(1, u.teacher_ids)
    if upstream_scores:
        p_scores = torch.where(u.in_teacher, teacher_scores.gather(1, u.teacher_ids), p_scores)
    q_scores = student_scores.gather(1, u.student_ids)
    p_scores = p_scores.masked_fill(~u.mask, NO_PROBABILITY) / temperature
    q_scores = q_scores.masked_fill(~u.mask, NO_PROBABILITY) / temperature
    if tail == "bucket":
        p_rest = _log_mass_outside(in_u_of_teacher, teacher_log_probs / temperature, valid)
        q_rest = _log_mass_outside(in_u_of_student, student_scores / temperature, valid)
        p_rest, q_rest = _drop_impossible(p_rest, q_rest, divergence)
        p_scores = torch.cat([p_scores, p_rest[:, None]], dim=1)
        q_scores = torch.cat([q_scores, q_rest[:, None]], dim=1)

    # Step 6: the loss.
    per_position = temperature**2 * divergence_of(p_scores, q_scores, valid, divergence, beta)
    with torch.no_grad():
        student_log_probs = log_probabilities(student_scores)
        teacher_tail_mass = _log_mass_outside(in_u_of_teacher, teacher_log_probs, valid).exp()
        student_tail_mass = _log_mass_outside(in_u_of_student, student_log_probs, valid).exp()
    return UnionTopkKL(
        loss=per_position.sum() / valid.sum().clamp_min(1),
        per_position=per_position,
        valid=valid,
        support_size=u.size,
        overlap=u.overlap,
        teacher_tail_mass=teacher_tail_mass,
        student_tail_mass=student_tail_mass,
        support=u,
        teacher=_side(teacher_log_probs, u.teacher_ids),
        student=_side(student_log_probs, u.student_ids),
    )


def _side(log_probs: Tensor, ids: Tensor) -> ModelView:
    entropy = torch.special.entr(log_probs.exp()).sum(dim=1)
    return ModelView(log_probs.gather(1, ids), entropy, log_probs.argmax(dim=1))


def _log_mass_outside(in_u: Tensor, scores: Tensor, rows: Tensor) -> Tensor:
    """The logsumexp [N] of scores [N, V] outside U_t; −inf if that is nothing or `rows` [N] is False.

    Taken over the complement itself: log(1 − Σ) would lose a small tail to rounding.
    """
    outside = scores.masked_fill(in_u, NO_PROBABILITY)
    empty = ~rows | (outside == NO_PROBABILITY).all(dim=1)
    # A logsumexp of nothing but −inf has a NaN gradient.
    return outside.masked_fill(empty[:, None], 0.0).logsumexp(dim=1).masked_fill(empty, NO_PROBABILITY)


def _drop_impossible(p_rest: Tensor, q_rest: Tensor, divergence: str) -> tuple[Tensor, Tensor]:
    """Leave a rest class [N] out where it is empty on one side and would make the divergence infinite."""
    if divergence == "forward_kl":
        p_rest = p_rest.masked_fill(q_rest == NO_PROBABILITY, NO_PROBABILITY)
    if divergence == "reverse_kl":
        q_rest = q_rest.masked_fill(p_rest == NO_PROBABILITY, NO_PROBABILITY)
    return p_rest, q_rest


def check_options(
    top_k: int,
    temperature: float,
    divergence: str,
    support: str,
    tail: str,
    beta: float,
    upstream_scores: bool,
) -> None:
    """See that options exist and lie in their ranges.

    Raises:
        InputError: one does not; names its key in a config.
    """
    choices = {
        "divergence": (divergence, DIVERGENCES),
        "support": (support, SUPPORTS),
        "tail": (tail, TAILS),
    }
    for key, (value, known) in choices.items():
        if value not in known:
            raise InputError(f"objective.{key}: {value!r} does not exist; choose one of {', '.join(known)}")
    if top_k < 1:
        raise InputError(f"objective.top_k is {top_k}; it must be at least 1")
    if not 0 < temperature < math.inf:
        raise InputError(f"objective.temperature is {temperature}; it must be above 0")
    if not 0 < beta < 1:
        raise InputError(f"objective.beta is {beta}; it must lie between 0 and 1")
    if upstream_scores and tail != "none":
        raise InputError("objective.upstream_scores knows no rest class; set objective.tail to none")


def _check_shape(name: str, tensor: Tensor | None, *shape: int) -> None:
    if tensor is not None and tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
