"""The tokens on which teacher and student are compared (docs/objective.md, steps 1 to 4; paper, section 3).

In: the top-k or the scores of both models, one row per position, and the map between their vocabularies. Out: the
support U_t of every position. Divergences and temperature are left to others.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from arkasr.distill.options import Objective
from arkasr.distill.vocabularies import Vocabularies, map_ids

NO_PROBABILITY = float("-inf")


@dataclass(frozen=True, slots=True)
class Support:
    """Candidate tokens of N positions in K slots each, and which of them form U_t.

    Each token is a candidate at most once per position. An empty slot holds id 0 and is False in every mask.

    Attributes:
        student_ids: LongTensor [N, K], the candidates as student ids.
        teacher_ids: LongTensor [N, K], the same tokens as teacher ids.
        mask: BoolTensor [N, K], the candidates in U_t.
        in_teacher: BoolTensor [N, K], the candidates in K^T_t, whether or not they are in U_t.
        in_student: BoolTensor [N, K], the candidates in K^S_t, whether or not they are in U_t.
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

    def valid(self, generated: Tensor | None, vocabularies: Vocabularies) -> Tensor:
        """Step 4: BoolTensor [N], the positions where |U_t| ≥ 2 and y_t has a counterpart.

        `generated` is y, LongTensor [N]. −1 = the position is not valid; None = validity does not depend on y_t.
        """
        valid = self.size >= 2
        return valid if generated is None else valid & (map_ids(vocabularies.student_to_teacher, generated.long()) >= 0)


def mask_disallowed(logits: Tensor, allowed: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Scores [N, V] in `dtype` with −inf outside the allowed tokens [V]; None allows all."""
    scores = logits.to(dtype)
    return scores if allowed is None else scores.masked_fill(~allowed, NO_PROBABILITY)


def log_probabilities(scores: Tensor) -> Tensor:
    """The log_softmax of scores [N, V]. A row of only −inf stays as it is instead of becoming NaN."""
    log_normaliser = scores.logsumexp(dim=1, keepdim=True)
    return scores - log_normaliser.masked_fill(log_normaliser == NO_PROBABILITY, 0.0)


def vocabulary_mask(ids: Tensor, mask: Tensor, vocab_size: int) -> Tensor:
    """BoolTensor [N, V], True at those of the ids [N, K] whose mask [N, K] is True."""
    in_vocabulary = ids.new_zeros((ids.shape[0], vocab_size + 1), dtype=torch.bool)
    return in_vocabulary.scatter_(1, torch.where(mask, ids, vocab_size), True)[:, :vocab_size]


def isin_rows(ids: Tensor, row_ids: Tensor, vocab_size: int) -> Tensor:
    """BoolTensor [N, K]: whether each of ids [N, K] is in the same row of `row_ids` [N, k], −1 = empty slot."""
    if ids.shape[1] * row_ids.shape[1] < vocab_size:
        return (ids[:, :, None] == row_ids[:, None, :]).any(dim=2)
    return vocabulary_mask(row_ids, row_ids >= 0, vocab_size).gather(1, ids)


@torch.no_grad()
def build_support(
    teacher_scores: Tensor,
    student_scores: Tensor,
    objective: Objective,
    vocabularies: Vocabularies,
    student_support: Tensor | None = None,
    generated: Tensor | None = None,
) -> Support:
    """Find U_t from scores [N, V_T] and [N, V_S], −inf outside A_T and A_S; the rest as in `union_topk_kl`.

    A token with a score of −inf in either model is no candidate at that position. If the student's score is −inf, the
    student cannot learn to produce the token. If the teacher's is, its score means nothing.

    Returns:
        Support with at most 2k + 1 slots; with "full", one slot for every mapped token.
    """
    top_k = objective.top_k
    teacher_top = map_ids(vocabularies.teacher_to_student, _top_ids(teacher_scores, top_k))
    student_top = _top_ids(student_scores, top_k) if student_support is None else student_support.long()

    def have_probability(student_ids: Tensor, teacher_ids: Tensor) -> Tensor:
        in_student = student_scores.gather(1, student_ids) != NO_PROBABILITY
        return in_student & (teacher_scores.gather(1, teacher_ids) != NO_PROBABILITY)

    return merge_supports(teacher_top, student_top, generated, objective.support, vocabularies, have_probability)


@torch.no_grad()
def merge_supports(
    teacher_top: Tensor,
    student_top: Tensor,
    generated: Tensor | None,
    kind: str,
    vocabularies: Vocabularies,
    have_probability: Callable[[Tensor, Tensor], Tensor],
) -> Support:
    """Find U_t for every position from the top-k of both models.

    Args:
        teacher_top: LongTensor [N, k], K^T_t, as student ids, −1 = unmapped.
        student_top: LongTensor [N, k'], K^S_t, −1 = empty slot.
        generated: LongTensor [N], −1 = none; None = none at any position. The generated tokens join U_t in "union"
            and "student". Those that the student decoded greedily in this process are in K^S_t anyway.
        kind: "union" (K^T ∪ K^S), "teacher" (K^T), "student" (K^S), "intersection" (K^T ∩ K^S), or "full" (every
            possible candidate; K^T and K^S are still marked).
        vocabularies: the map between the ids.
        have_probability: takes student ids and the same tokens as teacher ids, both [N, K]. Returns BoolTensor [N, K]:
            whether both models give the token a probability above 0.
    """
    student_to_teacher = vocabularies.student_to_teacher
    positions, student_vocab = len(student_top), len(student_to_teacher)
    generated_ids = student_top.new_full((positions, 1), -1) if generated is None else generated.long()[:, None]
    if kind == "full":
        ids = (student_to_teacher >= 0).nonzero().T.expand(positions, -1)
        is_candidate = torch.ones_like(ids, dtype=torch.bool)
    else:
        # Sorting puts equal ids side by side. The first of equal ids is the candidate.
        ids = torch.cat([teacher_top, student_top, generated_ids], dim=1).sort(dim=1).values
        is_candidate = map_ids(student_to_teacher, ids) >= 0
        is_candidate[:, 1:] &= ids[:, 1:] != ids[:, :-1]

    student_ids = torch.where(is_candidate, ids, 0)
    teacher_ids = torch.where(is_candidate, student_to_teacher[student_ids], 0)
    is_candidate = is_candidate & have_probability(student_ids, teacher_ids)

    in_teacher = is_candidate & isin_rows(student_ids, teacher_top, student_vocab)
    in_student = is_candidate & isin_rows(student_ids, student_top, student_vocab)
    is_generated = is_candidate & (student_ids == generated_ids)
    mask = {
        "union": in_teacher | in_student | is_generated,
        "teacher": in_teacher,
        "student": in_student | is_generated,
        "intersection": in_teacher & in_student,
        "full": is_candidate,
    }[kind]
    return Support(student_ids, teacher_ids, mask, in_teacher, in_student)


def _top_ids(scores: Tensor, top_k: int) -> Tensor:
    """Ids [N, min(k, V)] of the k highest scores [N, V]."""
    return scores.topk(min(top_k, scores.shape[1]), dim=1).indices
