"""The tokens on which teacher and student are compared (docs/objective.md, steps 1 to 3; paper, section 3).

In: both models' scores, one row a position, and the partial map between their vocabularies. Out: the support
U_t of every position. Knows nothing of divergences, of temperature, or of the text behind the positions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SUPPORTS = ("union", "teacher", "student", "intersection", "full")
NO_PROBABILITY = float("-inf")


@dataclass(frozen=True, slots=True)
class Support:
    """Candidate tokens of N positions, K slots each, and which of them make up U_t.

    A token is a candidate at most once a position. A slot without a candidate points at id 0 and is False in
    every mask.

    Attributes:
        student_ids: LongTensor [N, K], the candidates as student ids.
        teacher_ids: LongTensor [N, K], the same tokens as teacher ids.
        mask: BoolTensor [N, K], the candidates that are in U_t.
        in_teacher: BoolTensor [N, K], the candidates that are in K^T_t, whether or not they are in U_t.
        in_student: BoolTensor [N, K], the candidates that are in K^S_t, whether or not they are in U_t.
    """

    student_ids: Tensor
    teacher_ids: Tensor
    mask: Tensor
    in_teacher: Tensor
    in_student: Tensor

    @property
    def size(self) -> Tensor:
        """LongTensor [N], |U_t|: the VUSS of a position."""
        return self.mask.sum(dim=1)

    @property
    def overlap(self) -> Tensor:
        """LongTensor [N], |K^T_t ∩ K^S_t|."""
        return (self.in_teacher & self.in_student).sum(dim=1)


def working_dtype(student_logits: Tensor, teacher_logits: Tensor) -> torch.dtype:
    """The dtype to compute in: float32, or float64 when either side is float64."""
    logits_dtype = torch.promote_types(student_logits.dtype, teacher_logits.dtype)
    return torch.promote_types(logits_dtype, torch.float32)


def restrict(logits: Tensor, allowed: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Scores [N, V] in `dtype` with −inf outside the allowed tokens [V]; None allows all."""
    scores = logits.to(dtype)
    return scores if allowed is None else scores.masked_fill(~allowed, NO_PROBABILITY)


def log_probabilities(scores: Tensor) -> Tensor:
    """The log_softmax of scores [N, V]; a row of nothing but −inf stays as it is instead of becoming NaN."""
    log_normaliser = scores.logsumexp(dim=1, keepdim=True)
    return scores - log_normaliser.masked_fill(log_normaliser == NO_PROBABILITY, 0.0)


def same_ids(teacher_vocab_size: int, student_vocab_size: int, device: torch.device) -> Tensor:
    """The map m [V_T] between vocabularies with the same ids, −1 for what the student has no room for."""
    ids = torch.arange(teacher_vocab_size, device=device)
    return torch.where(ids < student_vocab_size, ids, -1)


def invert_map(teacher_to_student: Tensor, student_vocab_size: int) -> Tensor:
    """m⁻¹ as LongTensor [V_S] of teacher ids, −1 where a student id has no counterpart, from m [V_T].

    Raises:
        ValueError: two teacher ids share a student id.
    """
    mapped = (teacher_to_student >= 0).nonzero().squeeze(1)
    student_to_teacher = teacher_to_student.new_full((student_vocab_size,), -1)
    student_to_teacher[teacher_to_student[mapped]] = mapped
    if not torch.equal(student_to_teacher[teacher_to_student[mapped]], mapped):
        raise ValueError("teacher_to_student sends two teacher ids to one student id; make it one to one")
    return student_to_teacher


def look_up(table: Tensor, ids: Tensor) -> Tensor:
    """`table[ids]`, −1 for negative ids."""
    return torch.where(ids >= 0, table[ids.clamp_min(0)], -1)


def members(ids: Tensor, mask: Tensor, vocab_size: int) -> Tensor:
    """Padded id lists [N, K] as sets: BoolTensor [N, V], True at the ids whose mask [N, K] is True."""
    member = ids.new_zeros((ids.shape[0], vocab_size + 1), dtype=torch.bool)
    return member.scatter_(1, torch.where(mask, ids, vocab_size), True)[:, :vocab_size]


def among(ids: Tensor, others: Tensor, vocab_size: int) -> Tensor:
    """Which of ids [N, K] stand among `others` [N, k] of their row, −1 = empty slot: BoolTensor [N, K]."""
    if ids.shape[1] * others.shape[1] < vocab_size:
        return (ids[:, :, None] == others[:, None, :]).any(dim=2)
    return members(others, others >= 0, vocab_size).gather(1, ids)


@torch.no_grad()
def build_support(
    teacher_scores: Tensor,
    student_scores: Tensor,
    *,
    teacher_to_student: Tensor,
    student_to_teacher: Tensor,
    top_k: int,
    student_support: Tensor | None = None,
    generated: Tensor | None = None,
    support: str = "union",
) -> Support:
    """Find U_t for every position.

    A token to which either model gives no probability at a position (a score of −inf, which `restrict` leaves
    outside A_T and A_S) is no candidate there: the student cannot learn to say what it may not say, nor the
    teacher judge it.

    Args:
        teacher_scores: [N, V_T], l^T_t or any scores in the same order, −inf outside A_T.
        student_scores: [N, V_S], −inf outside A_S.
        teacher_to_student: LongTensor [V_T], the map m, −1 = unmapped.
        student_to_teacher: LongTensor [V_S], its inverse.
        top_k: k; more than the vocabulary holds means all of it.
        student_support: LongTensor [N, k'], the student's top-k at rollout time, −1 = empty slot; None takes
            the top-k of `student_scores`.
        generated: LongTensor [N], the ids that were generated, −1 = none. They join U_t where it takes in the
            student's side ("union", "student"), as greedy decoding would have had it by itself.
        support: "union" (K^T ∪ K^S), "teacher" (K^T), "student" (K^S), "intersection" (K^T ∩ K^S), or "full"
            (every candidate there can be; K^T and K^S are still marked).

    Returns:
        Support with K = 2k + 1 slots at most; with "full" one slot for every mapped token.
    """
    teacher_top = look_up(teacher_to_student, _top_ids(teacher_scores, top_k))
    student_top = _top_ids(student_scores, top_k) if student_support is None else student_support.long()

    def possible(student_ids: Tensor, teacher_ids: Tensor) -> Tensor:
        heard = student_scores.gather(1, student_ids) != NO_PROBABILITY
        return heard & (teacher_scores.gather(1, teacher_ids) != NO_PROBABILITY)

    return merge_supports(
        teacher_top, student_top, generated, student_to_teacher=student_to_teacher, possible=possible, support=support
    )


@torch.no_grad()
def merge_supports(
    teacher_top: Tensor,
    student_top: Tensor,
    generated: Tensor | None,
    *,
    student_to_teacher: Tensor,
    possible: Callable[[Tensor, Tensor], Tensor],
    support: str,
) -> Support:
    """U_t from the tokens that either side brings.

    Args:
        teacher_top: LongTensor [N, k], m(K^T_t) as student ids, −1 = unmapped.
        student_top: LongTensor [N, k'], the student's, −1 = empty slot.
        generated: LongTensor [N], −1 = none; None = none at any position.
        student_to_teacher: LongTensor [V_S], m⁻¹.
        possible: of student ids and the same tokens as teacher ids, both [N, K]: BoolTensor [N, K], whether both
            models give them any probability.
        support: as in `build_support`.
    """
    positions, student_vocab = len(student_top), len(student_to_teacher)
    chosen = student_top.new_full((positions, 1), -1) if generated is None else generated.long()[:, None]
    if support == "full":
        ids = (student_to_teacher >= 0).nonzero().T.expand(positions, -1)
        candidate = torch.ones_like(ids, dtype=torch.bool)
    else:
        # Equal ids are neighbours once sorted: the first of each run stands for all of them.
        ids = torch.cat([teacher_top, student_top, chosen], dim=1).sort(dim=1).values
        candidate = look_up(student_to_teacher, ids) >= 0
        candidate[:, 1:] &= ids[:, 1:] != ids[:, :-1]

    student_ids = torch.where(candidate, ids, 0)
    teacher_ids = torch.where(candidate, student_to_teacher[student_ids], 0)
    candidate = candidate & possible(student_ids, teacher_ids)

    in_teacher = candidate & among(student_ids, teacher_top, student_vocab)
    in_student = candidate & among(student_ids, student_top, student_vocab)
    was_generated = candidate & (student_ids == chosen)
    mask = {
        "union": in_teacher | in_student | was_generated,
        "teacher": in_teacher,
        "student": in_student | was_generated,
        "intersection": in_teacher & in_student,
        "full": candidate,
    }[support]
    return Support(student_ids, teacher_ids, mask, in_teacher, in_student)


def _top_ids(scores: Tensor, top_k: int) -> Tensor:
    """Ids [N, min(k, V)] of the k highest scores [N, V]."""
    return scores.topk(min(top_k, scores.shape[1]), dim=1).indices
