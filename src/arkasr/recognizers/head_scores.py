"""Scores of an output head with gradients: of chosen tokens, or of the whole vocabulary.

In: hidden states, the head's weight and token ids. Out: scores in float32 or float64. Tokens are chosen elsewhere
(`head.py`, `distill/support.py`).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from arkasr.recognizers.precision import at_least_float32, in_product_dtype, product_dtype

# Rows of the head that are copied at once. On the CPU they fit in its caches.
COPIED_ROWS = {"cpu": 2**10}
COPIED_ROWS_ELSEWHERE = 2**15


def token_scores(
    hidden: Tensor, head: Tensor, ids: Tensor, dtype: torch.dtype, *, sparse_head_gradient: bool = False
) -> Tensor:
    """Scores `[N, K]` of the tokens `ids` `[N, K]`, with gradients of `hidden` `[N, H]` and `head` `[V, H]`.

    Args:
        hidden: rounded to autocast's dtype if autocast is on.
        head: rounded in the same way.
        ids: int64.
        dtype: of sums and scores.
        sparse_head_gradient: give the head a sparse gradient. This saves a tensor of the head's size if something else
            gives the head a dense gradient, because autograd adds the sparse one to it.
    """
    hidden, head_dtype = in_product_dtype(hidden), product_dtype(head)
    with torch.autocast(hidden.device.type, enabled=False):
        scores: Tensor = _TokenScores.apply(hidden, head, ids, head_dtype, dtype, sparse_head_gradient)
    return scores


def vocabulary_scores(hidden: Tensor, head: Tensor) -> Tensor:
    """Scores `[N, V]` of all tokens in float32 or float64, with gradients of `hidden` `[N, H]` and `head` `[V, H]`."""
    hidden, head = (at_least_float32(_rounded_forward_only(tensor)) for tensor in (hidden, head))
    with torch.autocast(hidden.device.type, enabled=False):
        return F.linear(hidden, head)


def _rounded_forward_only(tensor: Tensor) -> Tensor:
    """The tensor rounded as in a product under autocast; its gradient is not rounded."""
    if product_dtype(tensor) == tensor.dtype:
        return tensor  # without copies of a large head
    return tensor + (in_product_dtype(tensor).to(tensor.dtype) - tensor).detach()


class _TokenScores(torch.autograd.Function):
    """hidden · head[ids]; reads and writes only those rows of the head."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        ids: Tensor,
        head_dtype: torch.dtype,
        dtype: torch.dtype,
        sparse: bool,
    ) -> Tensor:
        ctx.save_for_backward(hidden, head, ids)
        ctx.head_dtype, ctx.sparse = head_dtype, sparse
        positions, tokens = ids.shape
        chunk_size = max(COPIED_ROWS.get(hidden.device.type, COPIED_ROWS_ELSEWHERE) // max(tokens, 1), 1)
        scores = hidden.new_empty(ids.shape, dtype=dtype)
        for first in range(0, positions, chunk_size):
            chunk = slice(first, first + chunk_size)
            rows = head.index_select(0, ids[chunk].flatten()).to(head_dtype).to(dtype).unflatten(0, (-1, tokens))
            scores[chunk] = torch.linalg.vecdot(rows, hidden[chunk, None].to(dtype))
        return scores

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        hidden, head, ids = (tensor.detach() for tensor in ctx.saved_tensors)
        (score_gradient,) = gradients
        sorted_ids, order = ids.flatten().sort(stable=True)
        rows, counts = sorted_ids.unique_consecutive(return_counts=True)
        hidden_gradient = head_gradient = None
        if ctx.needs_input_grad[0]:
            # The gradient of a position is the weighted sum of its tokens' rows.
            if head.dtype == ctx.head_dtype == score_gradient.dtype:
                weights, weight_ids = head, ids
            else:
                weights = head.index_select(0, rows).to(ctx.head_dtype).to(score_gradient.dtype)
                weight_ids = torch.searchsorted(rows, ids)
            hidden_gradient = F.embedding_bag(weight_ids, weights, per_sample_weights=score_gradient, mode="sum")
            hidden_gradient = hidden_gradient.to(hidden.dtype)
        if ctx.needs_input_grad[1]:
            # The gradient of a row is the weighted sum of the states of all positions that chose its token.
            row_gradients = F.embedding_bag(
                order // ids.shape[1],
                hidden.to(score_gradient.dtype),
                counts.cumsum(0) - counts,
                per_sample_weights=score_gradient.flatten()[order],
                mode="sum",
            ).to(head.dtype)
            if ctx.sparse:
                head_gradient = torch.sparse_coo_tensor(
                    rows[None], row_gradients, head.shape, is_coalesced=True, check_invariants=False
                )
            else:
                head_gradient = torch.zeros_like(head).index_copy_(0, rows, row_gradients)
        return hidden_gradient, head_gradient, None, None, None, None
