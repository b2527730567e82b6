"""Reductions over the vocabulary of an output head, one tile of tokens after another.

In: hidden states and the head's weight. Out: best tokens, statistics of the distribution over all allowed tokens, and
samples from it, without gradients. A tile has a limited number of scores, so memory does not grow with positions times
vocabulary. Inputs are rounded to the model's or autocast's dtype; products and sums are computed in float32 or float64.
`head_scores.py` does the same, so that normalisers and scores agree in half precision.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from arkasr.recognizers.device import to_device
from arkasr.recognizers.precision import at_least_float32, in_product_dtype, working_dtype

# Scores in a tile. On the CPU they fit in its caches. On an accelerator they are enough to keep it busy.
TILE_SCORES = {"cpu": 2**21}
TILE_SCORES_ELSEWHERE = 2**26
SMALLEST_TILE_TOKENS = 1024
# Tokens are searched by groups of neighbours: the k best tokens are in the k groups with the best maxima.
GROUP_TOKENS = 64
# From this many multiplications on, oneDNN saves more than the copies to and from its tensors cost.
LARGE_PRODUCT = 2**21


@dataclass(frozen=True, slots=True)
class TopTokens:
    """The k best next tokens of N positions, and statistics over all allowed tokens.

    Attributes:
        ids: int64 `[N, k]`, best first.
        best: int64 `[N]`, the best token; the lowest id among equals.
        log_normaliser: `[N]`, logsumexp of all allowed tokens' scores.
        entropy: `[N]`, nats.
    """

    ids: Tensor
    best: Tensor
    log_normaliser: Tensor
    entropy: Tensor


@dataclass(frozen=True, slots=True)
class TokenMask:
    """Which tokens are allowed, bool `[V]`: one copy on the host, to skip tiles, and one on the scores' device."""

    on_host: Tensor
    on_device: Tensor

    @classmethod
    def of(cls, allowed: "Tensor | TokenMask | None", head: Tensor) -> "TokenMask":
        """The mask for a head `[V, H]`, uploaded unless it is a `TokenMask` already; None = all tokens."""
        if isinstance(allowed, TokenMask):
            return allowed
        on_host = torch.ones(len(head), dtype=torch.bool) if allowed is None else allowed.cpu()
        return cls(on_host, to_device(on_host, head.device))


@torch.no_grad()
def top_tokens(hidden: Tensor, head: Tensor, allowed: Tensor | None, top_k: int, dtype: torch.dtype) -> TopTokens:
    """The k best allowed tokens, log-normaliser and entropy of every position, in one pass over the vocabulary.

    If fewer than k tokens are allowed, others with the lowest finite score may follow them.

    Args:
        hidden: `[N, H]`.
        head: `[V, H]`.
        allowed: bool `[V]`, on the host, so that nothing waits for the device; None = all.
        top_k: k; capped at the size of the vocabulary.
        dtype: of sums and scores, float32 or float64.
    """
    positions = len(hidden)
    scores = hidden.new_empty((positions, 0), dtype=dtype)
    ids = torch.empty((positions, 0), dtype=torch.long, device=hidden.device)
    highest = hidden.new_full((positions,), -torch.inf, dtype=dtype)
    best = torch.zeros(positions, dtype=torch.long, device=hidden.device)
    log_normaliser, mean_score = highest, torch.zeros_like(highest)
    for first, tile in _tiles(hidden, head, TokenMask.of(allowed, head), dtype):
        groups = _Groups(tile)
        tile_scores, tile_ids = groups.candidates(top_k, scores)
        candidates = torch.cat((scores, tile_scores), dim=1)
        # Never more than there are tokens; otherwise the padding of the last group would be returned.
        scores, kept = candidates.topk(min(top_k, scores.shape[1] + tile.shape[1]), dim=1)
        ids = torch.cat((ids, tile_ids + first), dim=1).gather(1, kept)
        tile_highest, tile_best = groups.best()
        best = torch.where(tile_highest > highest, tile_best + first, best)
        highest = torch.maximum(highest, tile_highest)

        probabilities = tile.softmax(dim=1)
        # The best token has the probability exp(score) / exp(log-normaliser).
        tile_normaliser = tile_highest - probabilities.amax(dim=1).log()
        tile_mean = probabilities.mul_(tile).sum(dim=1)
        merged = torch.logaddexp(log_normaliser, tile_normaliser)
        mean_score = mean_score * (log_normaliser - merged).exp() + tile_mean * (tile_normaliser - merged).exp()
        log_normaliser = merged
    return TopTokens(ids, best, log_normaliser, (log_normaliser - mean_score).clamp_min(0))


@torch.no_grad()
def greedy_tokens(hidden: Tensor, head: Tensor, allowed: Tensor | TokenMask | None) -> Tensor:
    """The best allowed token of every position, int64 `[N]`; the lowest id among equals.

    Args:
        hidden: `[N, H]`.
        head: `[V, H]`.
        allowed: bool `[V]`; None = all.
    """
    dtype = working_dtype(hidden)
    highest = hidden.new_full((len(hidden),), -torch.inf, dtype=dtype)
    best = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
    for first, tile in _tiles(hidden, head, TokenMask.of(allowed, head), dtype):
        tile_highest, tile_best = _Groups(tile).best()
        best = torch.where(tile_highest > highest, tile_best + first, best)
        highest = torch.maximum(highest, tile_highest)
    return best


@torch.no_grad()
def log_normalisers(hidden: Tensor, head: Tensor, allowed: Tensor | TokenMask | None) -> Tensor:
    """Logsumexp of the allowed tokens' scores of every position, float32 or float64 `[N]`.

    The arguments are those of `greedy_tokens`.
    """
    dtype = working_dtype(hidden)
    total = hidden.new_full((len(hidden),), -torch.inf, dtype=dtype)
    for _, tile in _tiles(hidden, head, TokenMask.of(allowed, head), dtype):
        total = torch.logaddexp(total, tile.logsumexp(dim=1))
    return total


@torch.no_grad()
def sampled_tokens(
    hidden: Tensor, head: Tensor, allowed: Tensor | TokenMask | None, temperature: float, uniforms: Tensor
) -> Tensor:
    """Sample the next token of every position from softmax(scores / temperature), by inverse transform sampling.

    A token depends only on its position's scores and uniform number, not on the other positions.

    Args:
        hidden: `[N, H]`.
        head: `[V, H]`.
        allowed: bool `[V]`; None = all.
        temperature: above 0.
        uniforms: float64 `[N]`, in [0, 1).

    Returns:
        Ids, int64 `[N]`.
    """
    dtype = torch.float64
    mask = TokenMask.of(allowed, head)
    # Scores are compared with the highest one before they are divided, so that no temperature is too low.
    highest = hidden.new_full((len(hidden),), -torch.inf, dtype=dtype)
    total = torch.zeros_like(highest)
    for _, tile in _tiles(hidden, head, mask, dtype):
        higher = torch.maximum(highest, tile.amax(dim=1))
        total = total * ((highest - higher) / temperature).exp()
        total = total + ((tile - higher[:, None]) / temperature).exp().sum(dim=1)
        highest = higher
    earlier_probability = torch.zeros_like(total)
    sampled = torch.full_like(uniforms, -1, dtype=torch.long)
    last_possible = torch.zeros_like(sampled)
    for first, tile in _tiles(hidden, head, mask, dtype):
        probabilities = ((tile - highest[:, None]) / temperature).exp() / total[:, None]
        cumulative = earlier_probability[:, None] + probabilities.cumsum(dim=1)
        # The first token whose cumulative probability exceeds the uniform number; it has a probability above 0.
        found = (cumulative <= uniforms[:, None]).sum(dim=1)
        sampled = torch.where((sampled < 0) & (found < tile.shape[1]), found + first, sampled)
        possible = probabilities > 0
        tile_last = tile.shape[1] - 1 - possible.flip(1).int().argmax(dim=1)
        last_possible = torch.where(possible.any(dim=1), tile_last + first, last_possible)
        earlier_probability = cumulative[:, -1]
    # Rounding may leave the last cumulative probability a little below 1.
    return torch.where(sampled < 0, last_possible, sampled)


class _Groups:
    """A tile of scores `[N, tokens]` in groups of neighbouring tokens, so that few tokens are sorted."""

    def __init__(self, tile: Tensor) -> None:
        missing = -tile.shape[1] % GROUP_TOKENS
        padded = F.pad(tile, (0, missing), value=-torch.inf) if missing else tile
        self.scores = padded.unflatten(1, (padded.shape[1] // GROUP_TOKENS, GROUP_TOKENS))
        self.highest = self.scores.amax(dim=2)

    def best(self) -> tuple[Tensor, Tensor]:
        """The best score `[N]` and its index in the tile `[N]`; the first among equals."""
        group = self.highest.argmax(dim=1)
        score, index = self._scores_of(group[:, None])[:, 0].max(dim=1)
        return score, group * GROUP_TOKENS + index

    def candidates(self, top_k: int, known: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and indices `[N, M]`: every token of the tile that can be among the `top_k` best of tile and `known`.

        Args:
            top_k: how many are wanted.
            known: the best scores of earlier tiles, sorted, `[N, K]`.
        """
        groups = min(top_k, self.highest.shape[1])
        # On an accelerator, reading `better` would make the host wait.
        if known.shape[1] == top_k and known.device.type == "cpu":
            better = (self.highest > known[:, -1:]).sum(dim=1)
            groups = min(groups, int(better.max())) if len(better) else 0
        chosen = self.highest.topk(groups, dim=1).indices
        indices = chosen[:, :, None] * GROUP_TOKENS + torch.arange(GROUP_TOKENS, device=chosen.device)
        return self._scores_of(chosen).flatten(1), indices.flatten(1)

    def _scores_of(self, groups: Tensor) -> Tensor:
        return self.scores.gather(1, groups[:, :, None].expand(-1, -1, GROUP_TOKENS))


def _tiles(hidden: Tensor, head: Tensor, mask: TokenMask, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """For each tile with an allowed token: its first token and scores `[N, tokens]`.

    Forbidden tokens get the lowest finite score.
    """
    budget = TILE_SCORES.get(hidden.device.type, TILE_SCORES_ELSEWHERE)
    tokens = max(budget // max(len(hidden), 1), SMALLEST_TILE_TOKENS)
    tokens -= tokens % GROUP_TOKENS if tokens > GROUP_TOKENS else 0
    hidden = in_product_dtype(hidden)
    for first in range(0, len(head), tokens):
        token_range = slice(first, first + tokens)
        if not mask.on_host[token_range].any():
            continue
        rows = in_product_dtype(head[token_range])
        with torch.autocast(hidden.device.type, enabled=False):
            tile = _product(hidden, rows).to(dtype)
        if not mask.on_host[token_range].all():
            # Not −inf, because 0 · −inf is NaN.
            tile.masked_fill_(~mask.on_device[token_range], torch.finfo(dtype).min)
        yield first, tile


def _product(hidden: Tensor, rows: Tensor) -> Tensor:
    """Hidden · rowsᵀ in float32 or float64."""
    half = hidden.dtype == rows.dtype and hidden.dtype in (torch.bfloat16, torch.float16)
    if half and hidden.device.type == "cuda":
        return torch.mm(hidden, rows.T, out_dtype=torch.float32)
    hidden, rows = at_least_float32(hidden), at_least_float32(rows)
    large = len(hidden) * rows.numel() >= LARGE_PRODUCT
    single = hidden.dtype == rows.dtype == torch.float32
    if hidden.device.type == "cpu" and single and large and torch.backends.mkldnn.is_available():
        # More than twice as fast as MKL on AMD's CPUs; torch uses oneDNN for float32 only on request.
        return F.linear(hidden.to_mkldnn(), rows).to_dense()
    return F.linear(hidden, rows)
