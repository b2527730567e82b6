"""Replacement of a prompt's audio placeholders by audio embeddings."""

import torch
from torch import Tensor


def check_counts(placeholders: Tensor, counts: Tensor) -> None:
    """Check that every prompt has one placeholder for each embedding of its clip.

    Args:
        placeholders: bool `[B, L]`.
        counts: int64 `[B]`, embeddings of each clip.

    Raises:
        ValueError: the numbers of a prompt differ.
    """
    held = placeholders.sum(1)
    if not torch.equal(held, counts):
        raise ValueError(f"the prompts hold {held.tolist()} audio tokens, the audio needs {counts.tolist()}")


def check_total(held: int, needed: int) -> None:
    """Check that the prompts of a batch together have one placeholder for each of its embeddings.

    Raises:
        ValueError: the two numbers differ.
    """
    if held != needed:
        raise ValueError(f"the prompts hold {held} audio tokens, the audio needs {needed}")


def fill(embedded: Tensor, placeholders: Tensor, audio_embeddings: Tensor) -> Tensor:
    """`embedded` `[B, L, H]` with the valid audio embeddings `[sum N, H]` at the placeholders, in order."""
    return embedded.masked_scatter(placeholders[..., None], audio_embeddings.to(embedded.dtype))


def fill_padded(embedded: Tensor, placeholders: Tensor, audio_embeddings: Tensor) -> Tensor:
    """As `fill`, with embeddings padded per clip, `[B, N, H]`; does not make the host wait for the device."""
    batch, tokens, width = audio_embeddings.shape
    columns = (placeholders.cumsum(1) - 1).clamp(0, tokens - 1)
    rows = torch.arange(batch, device=columns.device)[:, None] * tokens + columns
    chosen = audio_embeddings.reshape(-1, width).index_select(0, rows.flatten()).view_as(embedded)
    return torch.where(placeholders[..., None], chosen.to(embedded.dtype), embedded)
