"""The objective of on-policy distillation (docs/objective.md; paper, equation 1): the dense reference.

In: student and teacher logits, one row per position. Out: the divergence at every position, and the support.
Sequences, batches, ranks and the mean over an optimizer step are left to the caller.
"""

import torch
from torch import Tensor

from arkasr.distill.divergence import divergence_of
from arkasr.distill.options import Objective
from arkasr.distill.result import ModelView, UnionTopkKL
from arkasr.distill.support import NO_PROBABILITY, build_support, log_probabilities, mask_disallowed, vocabulary_mask
from arkasr.distill.vocabularies import Vocabularies, check_shape
from arkasr.recognizers.precision import working_dtype


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
    """τ² KL(teacher p_t ‖ student q_t) over U_t: the top-k tokens of both models and the generated token, if given.

    This is the default. `divergence` and `support` select others.

    Computed in float32, or in float64 when either input is float64. The gradient flows into `student_logits` only. It
    is exactly zero in rows that are not valid, whatever values they hold. A logit of −inf is a token that is not
    allowed.

    Args:
        student_logits: S [N, V_S], scores for the token at each position, given the audio and the tokens before it.
        teacher_logits: T [N, V_T], of the same positions.
        top_k: k, the tokens that each model contributes.
        temperature: τ, applied on the support.
        teacher_to_student: m, LongTensor [V_T], −1 = unmapped; None = same ids.
        student_allowed: A_S, BoolTensor [V_S]; None = all.
        teacher_allowed: A_T, BoolTensor [V_T]; None = all.
        student_support: LongTensor [N, k], the student's top-k at rollout time, −1 = empty slot; None = top-k of S
            over A_S.
        generated: y, LongTensor [N]. A position is valid only if y_t has a counterpart; −1 never has one. y_t joins U_t
            with `support` "union" or "student". None = validity and U_t do not depend on y_t.
        divergence: "forward_kl" KL(p ‖ q), "reverse_kl" KL(q ‖ p), or "jsd".
        support: "union", "teacher", "student", "intersection" or "full"; see `merge_supports`.
        tail: "none", or "bucket": all tokens outside U_t form one more class. p_t and q_t are then the full
            distributions at temperature τ with their tails merged.
        beta: of "jsd" only: β KL(p ‖ r) + (1 − β) KL(q ‖ r) with r = β p + (1 − β) q.
        upstream_scores: score the teacher's own top-k by raw logits and all other tokens by log-probabilities, as the
            published training code does; for comparison only.

    Raises:
        InputError: an option does not exist or is out of range; the message names its recipe key.
        ValueError: the shapes of two tensors do not match.
    """
    objective = Objective(top_k, temperature, divergence, beta, support, tail, upstream_scores)
    vocabularies = Vocabularies.complete(
        student_logits.shape[1],
        teacher_logits.shape[1],
        student_logits.device,
        teacher_to_student=teacher_to_student,
        student_allowed=student_allowed,
        teacher_allowed=teacher_allowed,
    )
    return divergence_from_logits(student_logits, teacher_logits, objective, vocabularies, student_support, generated)


def divergence_from_logits(
    student_logits: Tensor,
    teacher_logits: Tensor,
    objective: Objective,
    vocabularies: Vocabularies,
    student_support: Tensor | None,
    generated: Tensor | None,
) -> UnionTopkKL:
    """Steps 1 to 6 of docs/objective.md; tensors as in `union_topk_kl`."""
    positions, student_vocab = student_logits.shape
    teacher_vocab = teacher_logits.shape[1]
    check_shape("teacher_logits", teacher_logits, positions, teacher_vocab)
    check_shape("generated", generated, positions)
    dtype, temperature = working_dtype(student_logits, teacher_logits), objective.temperature

    # Step 1: l^T_t, over the teacher's whole allowed vocabulary.
    teacher_scores = mask_disallowed(teacher_logits.detach(), vocabularies.teacher_allowed, dtype)
    teacher_log_probs = log_probabilities(teacher_scores)
    student_scores = mask_disallowed(student_logits, vocabularies.student_allowed, dtype)

    # Steps 2 and 3: K^T_t, K^S_t and U_t.
    scores = teacher_log_probs, student_scores.detach()
    u = build_support(*scores, objective, vocabularies, student_support, generated)
    teacher_vocab_in_u = vocabulary_mask(u.teacher_ids, u.mask, teacher_vocab)
    student_vocab_in_u = vocabulary_mask(u.student_ids, u.mask, student_vocab)

    # Step 4: the valid positions.
    valid = u.valid(generated, vocabularies)

    # Step 5: p_t and q_t, renormalised on U_t.
    p_scores = teacher_log_probs.gather(1, u.teacher_ids)
    if objective.upstream_scores:
        p_scores = torch.where(u.in_teacher, teacher_scores.gather(1, u.teacher_ids), p_scores)
    q_scores = student_scores.gather(1, u.student_ids)
    p_scores = p_scores.masked_fill(~u.mask, NO_PROBABILITY) / temperature
    q_scores = q_scores.masked_fill(~u.mask, NO_PROBABILITY) / temperature
    if objective.tail == "bucket":
        p_rest = _log_mass_outside(teacher_vocab_in_u, teacher_log_probs / temperature, valid)
        q_rest = _log_mass_outside(student_vocab_in_u, student_scores / temperature, valid)
        p_rest, q_rest = _drop_infinite(p_rest, q_rest, objective.divergence)
        p_scores = torch.cat([p_scores, p_rest[:, None]], dim=1)
        q_scores = torch.cat([q_scores, q_rest[:, None]], dim=1)

    # Step 6: the loss.
    per_position = temperature**2 * divergence_of(p_scores, q_scores, valid, objective.divergence, objective.beta)
    with torch.no_grad():
        student_log_probs = log_probabilities(student_scores)
        teacher_tail_mass = _log_mass_outside(teacher_vocab_in_u, teacher_log_probs, valid).exp()
        student_tail_mass = _log_mass_outside(student_vocab_in_u, student_log_probs, valid).exp()
    return UnionTopkKL(
        per_position=per_position,
        valid=valid,
        teacher_tail_mass=teacher_tail_mass,
        student_tail_mass=student_tail_mass,
        support=u,
        teacher=_view(teacher_log_probs, u.teacher_ids),
        student=_view(student_log_probs, u.student_ids),
    )


def _view(log_probs: Tensor, ids: Tensor) -> ModelView:
    entropy = torch.special.entr(log_probs.exp()).sum(dim=1)
    return ModelView(log_probs.gather(1, ids), entropy, log_probs.argmax(dim=1))


def _log_mass_outside(in_u: Tensor, scores: Tensor, rows: Tensor) -> Tensor:
    """The logsumexp [N] of scores [N, V] outside U_t; −inf if nothing is outside or `rows` [N] is False.

    Computed on the complement itself: log(1 − Σ) would lose a small tail to rounding.
    """
    outside = scores.masked_fill(in_u, NO_PROBABILITY)
    empty = ~rows | (outside == NO_PROBABILITY).all(dim=1)
    # A logsumexp of only −inf has a NaN gradient.
    return outside.masked_fill(empty[:, None], 0.0).logsumexp(dim=1).masked_fill(empty, NO_PROBABILITY)


def _drop_infinite(p_rest: Tensor, q_rest: Tensor, divergence: str) -> tuple[Tensor, Tensor]:
    """Remove the bucket [N] where it is empty in one model and would make the divergence infinite."""
    if divergence == "forward_kl":
        p_rest = p_rest.masked_fill(q_rest == NO_PROBABILITY, NO_PROBABILITY)
    if divergence == "reverse_kl":
        q_rest = q_rest.masked_fill(p_rest == NO_PROBABILITY, NO_PROBABILITY)
    return p_rest, q_rest
