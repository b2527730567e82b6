"""The objective from hidden states: the same result as `union_topk_kl`, with few logits in memory.

In: hidden states and output heads, or the scores of requested tokens from a served teacher. Out: the result of
docs/objective.md, exact in float32; that page says what bfloat16 changes. The student is scored on the best tokens of
both models only. With `support: full` or `tail: bucket`, it is scored on all tokens, a few positions at a time. Top-k
are found tile by tile in `arkasr.recognizers.head`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from arkasr.distill.chunked import divergence_in_chunks
from arkasr.distill.divergence import divergence_of
from arkasr.distill.options import Objective
from arkasr.distill.result import ModelView, UnionTopkKL
from arkasr.distill.support import NO_PROBABILITY, merge_supports
from arkasr.distill.vocabularies import Vocabularies, check_shape, map_ids
from arkasr.recognizers.head import TopTokens, top_tokens
from arkasr.recognizers.head_scores import token_scores
from arkasr.recognizers.precision import working_dtype
from arkasr.teacher.teacher import DenseScores, SparseScores, TeacherScores, TeacherStates


@dataclass(frozen=True, slots=True)
class StudentStates:
    """The student at N positions of its own transcripts: logits are hidden · headᵀ.

    Attributes:
        hidden: [N, H_S], gradient flows into it.
        head: [V_S, H_S], gradient flows into it.
        generated: y, LongTensor [N]. A position with −1 is not valid. None = validity and U_t do not depend on y_t.
        support: LongTensor [N, k], the ids of the top-k at rollout time; None = `top.ids`.
        top: the top-k with normaliser and entropy; None = found from `hidden` in one pass over the vocabulary.
        top_hidden: [N, H_S], the states that `top` was found from; None = `hidden`. In half precision the two may
            differ. Only the diagnostics (tail mass, log-probabilities) then use `top_hidden`.
        sparse_head_gradient: give `head` a sparse gradient, with the rows of the candidates of U_t only.
    """

    hidden: Tensor
    head: Tensor
    generated: Tensor | None = None
    support: Tensor | None = None
    top: TopTokens | None = None
    top_hidden: Tensor | None = None
    sparse_head_gradient: bool = False


def fused_union_topk_kl(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    *,
    top_k: int = 32,
    temperature: float = 1.0,
    teacher_to_student: Tensor | None = None,
    student_to_teacher: Tensor | None = None,
    student_allowed: Tensor | None = None,
    teacher_allowed: Tensor | None = None,
    student_support: Tensor | None = None,
    generated: Tensor | None = None,
    divergence: str = "forward_kl",
    support: str = "union",
    tail: str = "none",
    beta: float = 0.5,
    upstream_scores: bool = False,
    student_top: TopTokens | None = None,
    student_top_hidden: Tensor | None = None,
    teacher_top: TopTokens | None = None,
    sparse_head_gradient: bool = False,
) -> UnionTopkKL:
    """τ² KL(p_t ‖ q_t) of `union_topk_kl`, with logits = hidden · headᵀ in both models.

    A tail mass is 1 − the sum over U_t, so its absolute error is that of rounding a number near 1 (about 1e-7 in
    float32). `union_topk_kl` adds up the tail itself and is exact for small tails.

    Args:
        student_hidden: [N, H_S], gradient flows into it.
        student_head: [V_S, H_S], gradient flows into it.
        teacher_hidden: [N, H_T].
        teacher_head: [V_T, H_T].
        top_k: as in `union_topk_kl`, like all options not described here.
        temperature: τ.
        teacher_to_student: LongTensor [V_T].
        student_to_teacher: LongTensor [V_S], the inverse; None = computed, which makes the host wait for the device.
        student_allowed: BoolTensor [V_S].
        teacher_allowed: BoolTensor [V_T].
        student_support: LongTensor [N, k]; None = found here, in one pass over the student's vocabulary.
        generated: LongTensor [N].
        divergence: "forward_kl", "reverse_kl" or "jsd".
        support: with "full", the objective is computed from all logits, a few positions at a time.
        tail: the same holds for "bucket".
        beta: of "jsd" only.
        upstream_scores: for comparison only.
        student_top: what `top_tokens` finds for the student, if the rollout has it already. It replaces
            `student_support` and saves the pass over the student's vocabulary.
        student_top_hidden: [N, H_S], the states that `student_top` was found from. Needed in half precision, where they
            may differ from `student_hidden`. Only the diagnostics (tail mass, log-probabilities) use them.
        teacher_top: what `top_tokens` finds for the teacher, if it is known already.
        sparse_head_gradient: give the student's head a sparse gradient, with the rows of candidates of U_t only. Use it
            for a head tied to the embeddings. The sparse gradient is then added to the dense gradient of the
            embeddings. Most optimizers reject a sparse gradient alone. No effect with `support` "full" or `tail`
            "bucket".

    Raises:
        InputError: an option does not exist or is out of range; the message names its recipe key.
        ValueError: the shapes of two tensors do not match.
    """
    vocabularies = Vocabularies.complete(
        len(student_head),
        len(teacher_head),
        student_hidden.device,
        teacher_to_student=teacher_to_student,
        student_to_teacher=student_to_teacher,
        student_allowed=student_allowed,
        teacher_allowed=teacher_allowed,
    )
    if student_top is not None:
        student_support = student_top.ids
    return divergence_from_states(
        StudentStates(
            hidden=student_hidden,
            head=student_head,
            generated=generated,
            support=student_support,
            top=student_top,
            top_hidden=student_top_hidden,
            sparse_head_gradient=sparse_head_gradient,
        ),
        TeacherStates(teacher_hidden, teacher_head, teacher_top),
        Objective(top_k, temperature, divergence, beta, support, tail, upstream_scores),
        vocabularies,
    )


def divergence_from_states(
    student: StudentStates, teacher: TeacherScores, objective: Objective, vocabularies: Vocabularies
) -> UnionTopkKL:
    """The objective at N positions, from a teacher in process or from the scores that a server returns.

    `DenseScores` are compared token by token: the vocabularies must map every token of the student to itself.

    With a server, loss and gradient are exact if every token of U_t has a score. A server normalises over all tokens
    instead of A_T, but p_t is renormalised on U_t. The teacher's overlap masses are slightly too small, and its tail
    mass includes the probability outside A_T. Its entropy is NaN.

    Raises:
        ValueError: the objective needs scores that the teacher does not give, or shapes do not match.
    """
    if isinstance(teacher, SparseScores):
        if objective.needs_teacher_states:
            raise ValueError("support 'full', tail 'bucket' and upstream_scores need a teacher in this process")
        dtype = working_dtype(student.hidden, teacher.log_probs)
        return _compare(student, teacher.top, teacher.log_probs_of, dtype, objective, vocabularies)
    if isinstance(teacher, DenseScores) or objective.needs_every_score:
        support = student.top.ids if student.support is None and student.top is not None else student.support
        states = student.hidden, student.head
        return divergence_in_chunks(states, teacher.logits, objective, vocabularies, support, student.generated)
    dtype = working_dtype(student.hidden, teacher.hidden)
    # Step 1: l^T_t of the teacher's top-k.
    teacher_top = teacher.top
    if teacher_top is None:
        teacher_top = top_tokens(teacher.hidden, teacher.head, vocabularies.teacher_allowed, objective.top_k, dtype)

    def teacher_scores_of(ids: Tensor) -> Tensor:
        return token_scores(teacher.hidden, teacher.head, ids, dtype)

    return _compare(student, teacher_top, teacher_scores_of, dtype, objective, vocabularies)


def _compare(
    student: StudentStates,
    teacher_top: TopTokens,
    teacher_scores_of: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
    objective: Objective,
    vocabularies: Vocabularies,
) -> UnionTopkKL:
    """Steps 2 to 6 from the teacher's top-k and a function that scores any ids [N, K] as [N, K]."""
    positions, top_k, temperature = len(student.hidden), objective.top_k, objective.temperature
    student_top = student.top
    if student_top is None:
        allowed = vocabularies.student_allowed
        student_top = top_tokens(student.hidden.detach(), student.head.detach(), allowed, top_k, dtype)
    check_shape("student's top-k", student_top.ids, positions, min(top_k, len(vocabularies.student_to_teacher)))
    check_shape("teacher's top-k", teacher_top.ids, positions, min(top_k, len(vocabularies.teacher_to_student)))

    # Steps 2 and 3: K^T_t, K^S_t and U_t.
    u = merge_supports(
        map_ids(vocabularies.teacher_to_student, teacher_top.ids),
        (student_top.ids if student.support is None else student.support).long(),
        student.generated,
        objective.support,
        vocabularies,
        vocabularies.are_allowed,
    )

    # Step 4: the valid positions.
    valid = u.valid(student.generated, vocabularies)

    # Step 5: scores on the candidates of U_t.
    with torch.no_grad():
        teacher_scores = teacher_scores_of(u.teacher_ids)
        teacher_log_probs = teacher_scores - teacher_top.log_normaliser.to(dtype)[:, None]
    p_scores = teacher_log_probs
    if objective.upstream_scores:
        p_scores = torch.where(u.in_teacher, teacher_scores, teacher_log_probs)
    q_scores = token_scores(
        student.hidden, student.head, u.student_ids, dtype, sparse_head_gradient=student.sparse_head_gradient
    )
    p_scores, masked_q_scores = (scores.masked_fill(~u.mask, NO_PROBABILITY) for scores in (p_scores, q_scores))

    # Step 6: the loss.
    per_position = temperature**2 * divergence_of(
        p_scores / temperature, masked_q_scores / temperature, valid, objective.divergence, objective.beta
    )
    with torch.no_grad():
        student_scores = q_scores.detach()
        if student.top_hidden is not None:
            student_scores = token_scores(student.top_hidden, student.head.detach(), u.student_ids, dtype)
        student_log_probs = student_scores - student_top.log_normaliser.to(dtype)[:, None]
    return UnionTopkKL(
        per_position=per_position,
        valid=valid,
        teacher_tail_mass=_tail_mass(teacher_log_probs, u.mask, valid),
        student_tail_mass=_tail_mass(student_log_probs, u.mask, valid),
        support=u,
        teacher=ModelView(teacher_log_probs, teacher_top.entropy, teacher_top.best),
        student=ModelView(student_log_probs, student_top.entropy, student_top.best),
    )


def _tail_mass(log_probs: Tensor, in_u: Tensor, valid: Tensor) -> Tensor:
    """The probability [N] outside U_t, from log-probabilities [N, K] of the candidates; 0 where not valid."""
    mass = log_probs.masked_fill(~in_u, NO_PROBABILITY).exp().sum(dim=1)
    return torch.where(valid, (1 - mass).clamp_min(0), 0.0)
