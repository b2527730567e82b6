"""A vocabulary's scores tile by tile, so that the scores of all tokens never stand in memory at once.

In: hidden states and the rows of an output head. Out: the best tokens, log-normalisers, and the scores of chosen
tokens, with gradient where asked for. Knows nothing of teachers, students or supports.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TILE_TOKENS = 8192
# Positions whose chosen tokens are scored together: many share their tokens, and a row of the head is read once.
CHUNK_POSITIONS = 256


@dataclass(frozen=True, slots=True)
class Top:
    """The best tokens of N positions, and the normaliser of their whole distribution.

    Attributes:
        ids: LongTensor [N, k], best first.
        scores: [N, k].
        log_normaliser: [N], logsumexp of the scores of all allowed tokens.
    """

    ids: Tensor
    scores: Tensor
    log_normaliser: Tensor


@torch.no_grad()
def top_of_head(hidden: Tensor, head: Tensor, allowed: Tensor | None, top_k: int, dtype: torch.dtype) -> Top:
    """The k best allowed tokens and the log-normaliser, one pass over the vocabulary.

    Args:
        hidden: [N, H].
        head: [V, H].
        allowed: BoolTensor [V]; None = all.
        top_k: k; more than the vocabulary holds means all of it.
        dtype: of scores and sums.
    """
    positions, vocab_size = len(hidden), len(head)
    scores = hidden.new_full((positions, 0), 0.0, dtype=dtype)
    ids = torch.zeros((positions, 0), dtype=torch.long, device=hidden.device)
    log_normaliser = hidden.new_full((positions,), -torch.inf, dtype=dtype)
    for first in range(0, vocab_size, TILE_TOKENS):
        tile = (hidden @ head[first : first + TILE_TOKENS].T).to(dtype)
        if allowed is not None:
            tile.masked_fill_(~allowed[first : first + TILE_TOKENS], -torch.inf)
        log_normaliser = torch.logaddexp(log_normaliser, tile.logsumexp(dim=1))
        best, places = tile.topk(min(top_k, tile.shape[1]), dim=1)
        scores, kept = torch.cat((scores, best), dim=1).topk(min(top_k, scores.shape[1] + best.shape[1]), dim=1)
        ids = torch.cat((ids, places + first), dim=1).gather(1, kept)
    return Top(ids, scores, log_normaliser)


def scores_of(hidden: Tensor, head: Tensor, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Scores [N, K] of chosen tokens `ids` [N, K], with gradient into `hidden` [N, H] and `head` [V, H]."""
    scores: Tensor = _ChosenScores.apply(hidden, head, ids)
    return scores.to(dtype)


class _ChosenScores(torch.autograd.Function):
    """hidden · head[ids], reading and writing the rows of the head that are asked for and no others."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, head, ids)
        scores = hidden.new_empty(ids.shape)
        for chunk in _chunks(len(ids)):
            rows, places = ids[chunk].unique(return_inverse=True)
            scores[chunk] = (hidden[chunk] @ head[rows].T).gather(1, places)
        return scores

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden, head, ids = ctx.saved_tensors
        (of_scores,) = gradients
        of_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        of_head = torch.zeros_like(head) if ctx.needs_input_grad[1] else None
        for chunk in _chunks(len(ids)):
            rows, places = ids[chunk].unique(return_inverse=True)
            of_tokens = hidden.new_zeros(len(places), len(rows)).scatter_add_(1, places, of_scores[chunk])
            if of_hidden is not None:
                of_hidden[chunk] = of_tokens @ head[rows]
            if of_head is not None:
                of_head.index_add_(0, rows, of_tokens.T @ hidden[chunk])
        return of_hidden, of_head, None


def _chunks(positions: int) -> list[slice]:
    return [slice(first, first + CHUNK_POSITIONS) for first in range(0, positions, CHUNK_POSITIONS)]
