"""The dense reference from hidden states, a few positions at a time, for options that need every token's score.

In: hidden states and output heads. Out: the same result as `union_topk_kl` on their logits. Only the logits of one
chunk are in memory at a time; the backward pass computes them again.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from arkasr.distill.objective import divergence_from_logits
from arkasr.distill.options import Objective
from arkasr.distill.result import UnionTopkKL
from arkasr.distill.vocabularies import Vocabularies
from arkasr.recognizers.head_scores import vocabulary_scores

CHUNK_POSITIONS = 64


def divergence_in_chunks(
    student: tuple[Tensor, Tensor],
    teacher_logits: Callable[[slice], Tensor],
    objective: Objective,
    vocabularies: Vocabularies,
    student_support: Tensor | None,
    generated: Tensor | None,
) -> UnionTopkKL:
    """The objective at N positions.

    Args:
        student: hidden states [N, H_S] and head [V_S, H_S].
        teacher_logits: of a slice of the positions, [n, V_T].
        objective: the options.
        vocabularies: the map between the ids.
        student_support: as in `union_topk_kl`.
        generated: as in `union_topk_kl`.
    """
    student_hidden, student_head = student

    def compare(rows: slice, hidden: Tensor, head: Tensor) -> UnionTopkKL:
        return divergence_from_logits(
            vocabulary_scores(hidden, head),
            teacher_logits(rows),
            objective,
            vocabularies,
            None if student_support is None else student_support[rows],
            None if generated is None else generated[rows],
        )

    starts = range(0, max(len(student_hidden), 1), CHUNK_POSITIONS)
    chunks = [slice(start, start + CHUNK_POSITIONS) for start in starts]
    parts = [checkpoint(compare, rows, student_hidden[rows], student_head, use_reentrant=False) for rows in chunks]
    joined: UnionTopkKL = _concatenate(parts)
    return joined


def _concatenate(parts: Sequence[Any]) -> Any:
    """Concatenate tensors, or dataclasses of tensors field by field, over their positions."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    names = [field.name for field in fields(parts[0])]
    return type(parts[0])(*(_concatenate([getattr(part, name) for part in parts]) for name in names))
