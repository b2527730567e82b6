"""The output head tile by tile, so that the scores of the whole vocabulary never stand in memory at once.

Every score is a product of states and rows in the precision that the model computes in (under autocast rounded to
it), summed up in float32 or float64. Best tokens, normalisers and chosen scores thus belong together in half precision,
too.

In: hidden states and the rows of an output head. Out: the best tokens, what is known of their whole distribution, a
sample of it, and the scores of chosen tokens, with gradient where asked for. Knows nothing of teachers, students or
supports.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from arkasr.recognizers.device import at_least_float32, to_device

# Scores in a tile: on the CPU as many as stay in its caches, on an accelerator enough to keep it busy.
TILE_SCORES = {"cpu": 2**21}
TILE_SCORES_ELSEWHERE = 2**26
SMALLEST_TILE_TOKENS = 1024
# Neighbouring tokens whose best score is looked at before their own: the k best tokens are in the k best groups.
GROUP_TOKENS = 64
# Multiplications from which the copies in and out of oneDNN's tensors pay.
LARGE_PRODUCT = 2**21
# Rows of the head that are copied at once to score chosen tokens: on the CPU as many as stay in its caches.
COPIED_ROWS = {"cpu": 2**10}
COPIED_ROWS_ELSEWHERE = 2**15


@dataclass(frozen=True, slots=True)
class Top:
    """What N positions say about the next token, over all allowed tokens.

    Attributes:
        ids: LongTensor `[N, k]`, the k best tokens, best first.
        best: LongTensor `[N]`, the best token; of equals the one with the lowest id.
        log_normaliser: `[N]`, logsumexp of all scores.
        entropy: `[N]`, nats.
    """

    ids: Tensor
    best: Tensor
    log_normaliser: Tensor
    entropy: Tensor


@torch.no_grad()
def top_of_head(hidden: Tensor, head: Tensor, allowed: Tensor | None, top_k: int, dtype: torch.dtype) -> Top:
    """The k best allowed tokens, log-normaliser and entropy of every position, in one pass over the vocabulary.

    Args:
        hidden: `[N, H]`.
        head: `[V, H]`.
        allowed: BoolTensor `[V]`, best on the host, where it is looked at; None = all.
        top_k: k; more than the vocabulary holds means all of it.
        dtype: of scores and sums, float32 or float64.
    """
    positions = len(hidden)
    scores = hidden.new_empty((positions, 0), dtype=dtype)
    ids = torch.empty((positions, 0), dtype=torch.long, device=hidden.device)
    highest = hidden.new_full((positions,), -torch.inf, dtype=dtype)
    best = torch.zeros(positions, dtype=torch.long, device=hidden.device)
    log_normaliser, mean_score = highest, torch.zeros_like(highest)
    for first, tile in _tiles(hidden, head, allowed, dtype):
        groups = _Groups(tile)
        tile_scores, places = groups.candidates(top_k, scores)
        found = torch.cat((scores, tile_scores), dim=1)
        # What fills the last group is no token.
        scores, kept = found.topk(min(top_k, scores.shape[1] + tile.shape[1]), dim=1)
        ids = torch.cat((ids, places + first), dim=1).gather(1, kept)
        tile_highest, place = groups.best()
        best = torch.where(tile_highest > highest, place + first, best)
        highest = torch.maximum(highest, tile_highest)

        probabilities = tile.softmax(dim=1)
        # The best token has exp(0) / Σ of them.
        tile_normaliser = tile_highest - probabilities.amax(dim=1).log()
        tile_mean = probabilities.mul_(tile).sum(dim=1)
        together = torch.logaddexp(log_normaliser, tile_normaliser)
        mean_score = mean_score * (log_normaliser - together).exp() + tile_mean * (tile_normaliser - together).exp()
        log_normaliser = together
    return Top(ids, best, log_normaliser, (log_normaliser - mean_score).clamp_min(0))


@torch.no_grad()
def best_of_head(hidden: Tensor, head: Tensor, allowed: Tensor | None) -> Tensor:
    """The best allowed token of every position, LongTensor `[N]`; of equals the one with the lowest id.

    Args:
        hidden: `[N, H]`.
        head: `[V, H]`.
        allowed: BoolTensor `[V]`; None = all.
    """
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    highest = hidden.new_full((len(hidden),), -torch.inf, dtype=dtype)
    best = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
    for first, tile in _tiles(hidden, head, allowed, dtype):
        tile_highest, place = _Groups(tile).best()
        best = torch.where(tile_highest > highest, place + first, best)
        highest = torch.maximum(highest, tile_highest)
    return best


@torch.no_grad()
def sample_of_head(
    hidden: Tensor, head: Tensor, allowed: Tensor | None, temperature: float, uniforms: Tensor
) -> Tensor:
    """Draw the next token of every position from softmax(scores / temperature) by inverting its distribution function.

    The same uniform number gives the same token, whatever else is drawn beside it.

    Args:
        hidden: `[N, H]`.
        head: `[V, H]`.
        allowed: BoolTensor `[V]`; None = all.
        temperature: above 0.
        uniforms: float64 `[N]`, in [0, 1).

    Returns:
        Ids, LongTensor `[N]`.
    """
    dtype = torch.float64
    log_normaliser = hidden.new_full((len(hidden),), -torch.inf, dtype=dtype)
    for _, tile in _tiles(hidden, head, allowed, dtype):
        log_normaliser = torch.logaddexp(log_normaliser, (tile / temperature).logsumexp(dim=1))
    below = torch.zeros_like(log_normaliser)
    drawn = torch.full_like(uniforms, -1, dtype=torch.long)
    last = torch.zeros_like(drawn)
    for first, tile in _tiles(hidden, head, allowed, dtype):
        probabilities = (tile / temperature - log_normaliser[:, None]).exp()
        distribution = below[:, None] + probabilities.cumsum(dim=1)
        # A token without probability is never the first to rise above a number.
        place = (distribution <= uniforms[:, None]).sum(dim=1)
        drawn = torch.where((drawn < 0) & (place < tile.shape[1]), place + first, drawn)
        possible = probabilities > 0
        latest = tile.shape[1] - 1 - possible.flip(1).int().argmax(dim=1)
        last = torch.where(possible.any(dim=1), latest + first, last)
        below = distribution[:, -1]
    # Rounding may leave the whole of the distribution a little below 1.
    return torch.where(drawn < 0, last, drawn)


def scores_of(
    hidden: Tensor, head: Tensor, ids: Tensor, dtype: torch.dtype, *, sparse_head_gradient: bool = False
) -> Tensor:
    """Scores `[N, K]` of chosen tokens `ids` `[N, K]`, with gradient into `hidden` `[N, H]` and `head` `[V, H]`.

    Summed up in `dtype`, from operands in the precision that the model computes in. A sparse gradient of the head
    spares a tensor of its size where something else gives it a dense gradient, to which autograd adds it.
    """
    hidden, computed_in = as_computed(hidden), _computed_in(head)
    with torch.autocast(hidden.device.type, enabled=False):
        scores: Tensor = _ChosenScores.apply(hidden, head, ids, computed_in, dtype, sparse_head_gradient)
    return scores


def every_score(hidden: Tensor, head: Tensor) -> Tensor:
    """Scores `[N, V]` of all tokens in float32 or float64, with gradient into `hidden` `[N, H]` and `head` `[V, H]`."""
    hidden, head = (at_least_float32(_with_its_own_gradient(tensor)) for tensor in (hidden, head))
    with torch.autocast(hidden.device.type, enabled=False):
        return F.linear(hidden, head)


def _with_its_own_gradient(tensor: Tensor) -> Tensor:
    """The tensor as computed, whose gradient is not rounded as it is."""
    return tensor + (as_computed(tensor).to(tensor.dtype) - tensor).detach()


def as_computed(tensor: Tensor) -> Tensor:
    """The tensor in the precision that a product with it has here: under autocast rounded, else as it is."""
    return tensor.to(_computed_in(tensor))


def _computed_in(tensor: Tensor) -> torch.dtype:
    device = tensor.device.type
    if tensor.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return tensor.dtype
    return torch.get_autocast_dtype(device)


class _ChosenScores(torch.autograd.Function):
    """hidden · head[ids], reading and writing the rows of the head that are asked for and no others."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        ids: Tensor,
        computed_in: torch.dtype,
        dtype: torch.dtype,
        sparse: bool,
    ) -> Tensor:
        ctx.save_for_backward(hidden, head, ids)
        ctx.computed_in, ctx.sparse = computed_in, sparse
        positions, tokens = ids.shape
        at_once = max(COPIED_ROWS.get(hidden.device.type, COPIED_ROWS_ELSEWHERE) // max(tokens, 1), 1)
        scores = hidden.new_empty(ids.shape, dtype=dtype)
        for first in range(0, positions, at_once):
            chunk = slice(first, first + at_once)
            rows = head.index_select(0, ids[chunk].flatten()).to(computed_in).to(dtype).unflatten(0, (-1, tokens))
            scores[chunk] = torch.linalg.vecdot(rows, hidden[chunk, None].to(dtype))
        return scores

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        hidden, head, ids = (tensor.detach() for tensor in ctx.saved_tensors)
        (of_scores,) = gradients
        tokens, order = ids.flatten().sort(stable=True)
        rows, counts = tokens.unique_consecutive(return_counts=True)
        of_hidden = of_head = None
        if ctx.needs_input_grad[0]:
            # Each position sums up the rows of its tokens.
            as_it_is = head.dtype == ctx.computed_in == of_scores.dtype
            used = head if as_it_is else head.index_select(0, rows).to(ctx.computed_in).to(of_scores.dtype)
            places = torch.searchsorted(rows, ids) if used is not head else ids
            of_hidden = F.embedding_bag(places, used, per_sample_weights=of_scores, mode="sum").to(hidden.dtype)
        if ctx.needs_input_grad[1]:
            # Each row sums up the states of the positions that named it.
            of_rows = F.embedding_bag(
                order // ids.shape[1],
                hidden.to(of_scores.dtype),
                counts.cumsum(0) - counts,
                per_sample_weights=of_scores.flatten()[order],
                mode="sum",
            ).to(head.dtype)
            if ctx.sparse:
                of_head = torch.sparse_coo_tensor(
                    rows[None], of_rows, head.shape, is_coalesced=True, check_invariants=False
                )
            else:
                of_head = torch.zeros_like(head).index_copy_(0, rows, of_rows)
        return of_hidden, of_head, None, None, None, None


class _Groups:
    """A tile of scores `[N, T]` by groups of neighbouring tokens, so that few of them are sorted."""

    def __init__(self, tile: Tensor) -> None:
        missing = -tile.shape[1] % GROUP_TOKENS
        whole = F.pad(tile, (0, missing), value=-torch.inf) if missing else tile
        self.scores = whole.unflatten(1, (whole.shape[1] // GROUP_TOKENS, GROUP_TOKENS))
        self.highest = self.scores.amax(dim=2)
        self.tokens = tile.shape[1]

    def best(self) -> tuple[Tensor, Tensor]:
        """The best score `[N]` and its place `[N]` in the tile; of equals the first."""
        group = self.highest.argmax(dim=1)
        score, place = self._of(group[:, None])[:, 0].max(dim=1)
        return score, group * GROUP_TOKENS + place

    def candidates(self, top_k: int, known: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and places `[N, M]` of tokens, among them all that are better than the k best `known` `[N, K]`."""
        groups = min(top_k, self.highest.shape[1])
        if known.shape[1] == top_k and known.device.type == "cpu":  # elsewhere the host would wait for the number
            better = (self.highest > known[:, -1:]).sum(dim=1)
            groups = min(groups, int(better.max())) if len(better) else 0
        chosen = self.highest.topk(groups, dim=1).indices
        places = chosen[:, :, None] * GROUP_TOKENS + torch.arange(GROUP_TOKENS, device=chosen.device)
        return self._of(chosen).flatten(1), places.flatten(1)

    def _of(self, groups: Tensor) -> Tensor:
        return self.scores.gather(1, groups[:, :, None].expand(-1, -1, GROUP_TOKENS))


def _tiles(hidden: Tensor, head: Tensor, allowed: Tensor | None, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """First token and scores `[N, tokens]` of every tile that has an allowed token; others have the lowest score."""
    budget = TILE_SCORES.get(hidden.device.type, TILE_SCORES_ELSEWHERE)
    tokens = max(budget // max(len(hidden), 1), SMALLEST_TILE_TOKENS)
    tokens -= tokens % GROUP_TOKENS if tokens > GROUP_TOKENS else 0
    # Looked at by the host, which would otherwise wait for the device at every tile.
    on_host = torch.ones(len(head), dtype=torch.bool) if allowed is None else allowed.cpu()
    on_device = to_device(on_host, hidden.device)
    hidden = as_computed(hidden)
    for first in range(0, len(head), tokens):
        here = slice(first, first + tokens)
        if not on_host[here].any():
            continue
        rows = as_computed(head[here])
        with torch.autocast(hidden.device.type, enabled=False):
            tile = _product(hidden, rows).to(dtype)
        if not on_host[here].all():
            # Not −inf: 0 · −inf is no number.
            tile.masked_fill_(~on_device[here], torch.finfo(dtype).min)
        yield first, tile


def _product(hidden: Tensor, rows: Tensor) -> Tensor:
    """Hidden · rowsᵀ in float32 or float64, without a gradient."""
    half = hidden.dtype == rows.dtype and hidden.dtype in (torch.bfloat16, torch.float16)
    if half and hidden.device.type == "cuda":
        return torch.mm(hidden, rows.T, out_dtype=torch.float32)
    hidden, rows = at_least_float32(hidden), at_least_float32(rows)
    large = len(hidden) * rows.numel() >= LARGE_PRODUCT
    single = hidden.dtype == rows.dtype == torch.float32
    if hidden.device.type == "cpu" and single and large and torch.backends.mkldnn.is_available():
        # oneDNN, which torch takes for float32 only when told so, is more than twice as fast as MKL on AMD's CPUs.
        return F.linear(hidden.to_mkldnn(), rows).to_dense()
    return F.linear(hidden, rows)
