"""The objective from hidden states: the same result as `union_topk_kl`, without logits of the whole vocabulary.

The student is scored on the support only, the teacher's best tokens are found tile by tile, and nothing larger than a
tile is kept. In float32 docs/objective.md holds to the letter, and every option has a test against the dense reference;
what bfloat16 changes is said there.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from arkasr.distill.divergence import divergence_of
from arkasr.distill.objective import ModelView, UnionTopkKL, check_options, union_topk_kl
from arkasr.distill.support import NO_PROBABILITY, invert_map, look_up, merge_supports, same_ids, working_dtype
from arkasr.recognizers.head import Top, every_score, scores_of, top_of_head
from arkasr.teacher.teacher import SparseScores

# Options that need every token's score are computed for so many positions at a time.
DENSE_POSITIONS = 64


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
    student_top: Top | None = None,
    student_top_hidden: Tensor | None = None,
    teacher_top: Top | None = None,
    sparse_head_gradient: bool = False,
) -> UnionTopkKL:
    """τ² KL(p_t ‖ q_t) of `union_topk_kl`, with logits = hidden · headᵀ on either side.

    The tail masses are 1 − Σ and so exact to the rounding of 1, where the reference sums the tail itself.

    Args:
        student_hidden: [N, H_S], gradient flows into it.
        student_head: [V_S, H_S], gradient flows into it.
        teacher_hidden: [N, H_T].
        teacher_head: [V_T, H_T].
        top_k: as in `union_topk_kl`, like all options not named here.
        temperature: τ.
        teacher_to_student: LongTensor [V_T].
        student_to_teacher: LongTensor [V_S], its inverse where it is known already: making and checking it makes the
            host wait for the device.
        student_allowed: BoolTensor [V_S].
        teacher_allowed: BoolTensor [V_T].
        student_support: LongTensor [N, k]; None = found here, in one pass over the student's vocabulary.
        generated: LongTensor [N].
        divergence: "forward_kl", "reverse_kl" or "jsd".
        support: "full" needs every score, and is computed densely for a few positions at a time.
        tail: "bucket" needs every score, too.
        beta: of "jsd" only.
        upstream_scores: for comparison only.
        student_top: what `top_of_head` finds for the student, where the rollout has it already; takes the place of
            `student_support`, and spares the pass over the student's vocabulary.
        student_top_hidden: [N, H_S], the states that `student_top` was found from, where they may differ from
            `student_hidden`, as they do in half precision; the student's probabilities are then those of that moment.
        teacher_top: what `top_of_head` finds for the teacher, where it is known already.
        sparse_head_gradient: give the student's head a sparse gradient, of the rows in U_t. For a head that is tied to
            the embeddings, whose dense gradient it is added to; most optimizers refuse it alone. Without effect where
            every score is needed.

    Raises:
        InputError: an option that does not exist or a value outside its range.
        ValueError: tensors that do not fit together.
    """
    check_options(top_k, temperature, divergence, support, tail, beta, upstream_scores)
    options: dict[str, Any] = {
        "top_k": top_k,
        "temperature": temperature,
        "teacher_to_student": teacher_to_student,
        "student_allowed": student_allowed,
        "teacher_allowed": teacher_allowed,
        "divergence": divergence,
        "support": support,
        "beta": beta,
        "upstream_scores": upstream_scores,
    }
    if student_top is not None:
        student_support = student_top.ids
    if needs_every_score(support, tail):
        options["tail"] = tail
        return _dense_by_chunks(
            student_hidden, student_head, teacher_hidden, teacher_head, student_support, generated, options
        )
    dtype = working_dtype(student_hidden, teacher_hidden)
    # Step 1: l^T_t of the teacher's best.
    if teacher_top is None:
        teacher_top = top_of_head(teacher_hidden, teacher_head, teacher_allowed, top_k, dtype)
    if teacher_to_student is None:
        options["teacher_to_student"] = same_ids(len(teacher_head), len(student_head), student_hidden.device)
    return _compared(
        student_hidden,
        student_head,
        teacher_top,
        lambda ids: scores_of(teacher_hidden, teacher_head, ids, dtype),
        dtype,
        student_to_teacher=student_to_teacher,
        student_support=student_support,
        student_top=student_top,
        student_top_hidden=student_top_hidden,
        generated=generated,
        sparse_head_gradient=sparse_head_gradient,
        **options,
    )


def named_union_topk_kl(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher: SparseScores,
    *,
    teacher_to_student: Tensor,
    student_to_teacher: Tensor | None = None,
    top_k: int = 32,
    temperature: float = 1.0,
    student_allowed: Tensor | None = None,
    teacher_allowed: Tensor | None = None,
    generated: Tensor | None = None,
    divergence: str = "forward_kl",
    support: str = "union",
    beta: float = 0.5,
    student_top: Top | None = None,
    student_top_hidden: Tensor | None = None,
    sparse_head_gradient: bool = False,
) -> UnionTopkKL:
    """τ² KL(p_t ‖ q_t) of `union_topk_kl` from the teacher's scores of the tokens in U_t, as a server gives them.

    Exact in loss and gradient where every token of U_t has its score: p_t is renormalised on U_t, so that it does not
    matter that a server normalises over all tokens and not over A_T. The teacher's masses count what it gives to tokens
    outside A_T as lost, and its entropy is not known.

    Args:
        student_hidden: [N, H_S], gradient flows into it.
        student_head: [V_S, H_S], gradient flows into it.
        teacher: of the same N positions.
        teacher_to_student: LongTensor [V_T].
        student_to_teacher: as in `fused_union_topk_kl`.
        top_k: as in `fused_union_topk_kl`, like all options not named here.
        temperature: τ.
        student_allowed: BoolTensor [V_S].
        teacher_allowed: BoolTensor [V_T].
        generated: LongTensor [N].
        divergence: "forward_kl", "reverse_kl" or "jsd".
        support: any but "full".
        beta: of "jsd" only.
        student_top: as in `fused_union_topk_kl`.
        student_top_hidden: as in `fused_union_topk_kl`.
        sparse_head_gradient: as in `fused_union_topk_kl`.

    Raises:
        InputError: an option that does not exist or a value outside its range.
        ValueError: an option that needs every score, or tensors that do not fit together.
    """
    check_options(top_k, temperature, divergence, support, "none", beta, False)
    if needs_every_score(support, "none"):
        raise ValueError(f"support {support!r} needs every score, and named scores are some")
    return _compared(
        student_hidden,
        student_head,
        teacher.top,
        teacher.log_probs_of,
        working_dtype(student_hidden, teacher.log_probs),
        teacher_to_student=teacher_to_student,
        student_to_teacher=student_to_teacher,
        top_k=top_k,
        temperature=temperature,
        student_allowed=student_allowed,
        teacher_allowed=teacher_allowed,
        student_support=None if student_top is None else student_top.ids,
        student_top=student_top,
        student_top_hidden=student_top_hidden,
        generated=generated,
        divergence=divergence,
        support=support,
        beta=beta,
        upstream_scores=False,
        sparse_head_gradient=sparse_head_gradient,
    )


def _compared(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_top: Top,
    teacher_scores_of: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
    *,
    top_k: int,
    temperature: float,
    teacher_to_student: Tensor,
    student_to_teacher: Tensor | None,
    student_allowed: Tensor | None,
    teacher_allowed: Tensor | None,
    student_support: Tensor | None,
    student_top: Top | None,
    student_top_hidden: Tensor | None,
    generated: Tensor | None,
    divergence: str,
    support: str,
    beta: float,
    upstream_scores: bool,
    sparse_head_gradient: bool,
) -> UnionTopkKL:
    """Steps 2 to 6 from the teacher's best tokens and its scores `[N, K]` of any ids `[N, K]`."""
    student_vocab, teacher_vocab = len(student_head), len(teacher_to_student)
    _check_tops(len(student_hidden), top_k, (student_top, student_vocab), (teacher_top, teacher_vocab))
    if student_to_teacher is None:
        student_to_teacher = invert_map(teacher_to_student, student_vocab)

    # Steps 2 and 3: K^T_t, K^S_t and U_t.
    if student_top is None:
        student_top = top_of_head(student_hidden.detach(), student_head.detach(), student_allowed, top_k, dtype)
    if student_support is None:
        student_support = student_top.ids
    u = merge_supports(
        look_up(teacher_to_student, teacher_top.ids),
        student_support.long(),
        generated,
        student_to_teacher=student_to_teacher,
        possible=lambda student_ids, teacher_ids: (
            _allowed(student_ids, student_allowed) & _allowed(teacher_ids, teacher_allowed)
        ),
        support=support,
    )

    # Step 4: the valid positions.
    valid = u.size >= 2
    if generated is not None:
        valid = valid & (look_up(student_to_teacher, generated.long()) >= 0)

    # Step 5: scores on U_t only.
    with torch.no_grad():
        teacher_scores = teacher_scores_of(u.teacher_ids)
        teacher_log_probs = teacher_scores - teacher_top.log_normaliser.to(dtype)[:, None]
    p_scores = torch.where(u.in_teacher, teacher_scores, teacher_log_probs) if upstream_scores else teacher_log_probs
    q_scores = scores_of(student_hidden, student_head, u.student_ids, dtype, sparse_head_gradient=sparse_head_gradient)
    in_support = q_scores.masked_fill(~u.mask, NO_PROBABILITY)

    # Step 6: the loss.
    per_position = temperature**2 * divergence_of(
        p_scores.masked_fill(~u.mask, NO_PROBABILITY) / temperature, in_support / temperature, valid, divergence, beta
    )
    with torch.no_grad():
        scores = q_scores.detach()
        if student_top_hidden is not None:
            scores = scores_of(student_top_hidden, student_head.detach(), u.student_ids, dtype)
        student_log_probs = scores - student_top.log_normaliser.to(dtype)[:, None]
        teacher_mass = teacher_log_probs.masked_fill(~u.mask, NO_PROBABILITY).exp().sum(dim=1)
        student_mass = student_log_probs.masked_fill(~u.mask, NO_PROBABILITY).exp().sum(dim=1)
    return UnionTopkKL(
        loss=per_position.sum() / valid.sum().clamp_min(1),
        per_position=per_position,
        valid=valid,
        support_size=u.size,
        overlap=u.overlap,
        teacher_tail_mass=torch.where(valid, (1 - teacher_mass).clamp_min(0), 0.0),
        student_tail_mass=torch.where(valid, (1 - student_mass).clamp_min(0), 0.0),
        support=u,
        teacher=ModelView(teacher_log_probs, teacher_top.entropy, teacher_top.best),
        student=ModelView(student_log_probs, student_top.entropy, student_top.best),
    )


def needs_every_score(support: str, tail: str) -> bool:
    """Whether an objective looks at the whole vocabulary, so that the best tokens alone do not do."""
    return tail == "bucket" or support == "full"


def _check_tops(positions: int, top_k: int, *tops: tuple[Top | None, int]) -> None:
    for top, vocab_size in tops:
        expected = (positions, min(top_k, vocab_size))
        if top is not None and top.ids.shape != expected:
            raise ValueError(f"the best tokens of a side have shape {tuple(top.ids.shape)}, expected {expected}")


def _dense_by_chunks(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    student_support: Tensor | None,
    generated: Tensor | None,
    options: dict[str, Any],
) -> UnionTopkKL:
    """The dense reference for a few positions at a time; the backward pass computes their logits once more."""

    def compare(first: int, hidden: Tensor, head: Tensor) -> UnionTopkKL:
        rows = slice(first, first + DENSE_POSITIONS)
        return union_topk_kl(
            every_score(hidden, head),
            every_score(teacher_hidden[rows], teacher_head),
            student_support=None if student_support is None else student_support[rows],
            generated=None if generated is None else generated[rows],
            **options,
        )

    parts = [
        checkpoint(compare, first, student_hidden[first : first + DENSE_POSITIONS], student_head, use_reentrant=False)
        for first in range(0, max(len(student_hidden), 1), DENSE_POSITIONS)
    ]
    joined: UnionTopkKL = _joined(parts)
    return replace(joined, loss=joined.per_position.sum() / joined.valid.sum().clamp_min(1))


def _joined(parts: Sequence[Any]) -> Any:
    """One dataclass of the positions of several, field by field; of scalars the first one's."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts)) if parts[0].dim() else parts[0]
    names = [field.name for field in fields(parts[0])]
    return type(parts[0])(*(_joined([getattr(part, name) for part in parts]) for name in names))


def _allowed(ids: Tensor, allowed: Tensor | None) -> Tensor:
    return torch.ones_like(ids, dtype=torch.bool) if allowed is None else allowed[ids]
