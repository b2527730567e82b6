"""Audio embeddings in the place of the prompt's audio placeholders, for every class that reads prompts."""

import torch
from torch import Tensor


def check_counts(placeholders: Tensor, counts: Tensor) -> None:
    """See that every prompt has a placeholder for each of its clip's embeddings.

    Args:
        placeholders: bool `[B, L]`.
        counts: int64 `[B]`, embeddings of each clip.

    Raises:
        ValueError: a prompt has more or fewer.
    """
    held = placeholders.sum(1)
    if not torch.equal(held, counts):
        raise ValueError(f"the prompts hold {held.tolist()} audio tokens, the audio needs {counts.tolist()}")


def fill(embedded: Tensor, placeholders: Tensor, audio_embeddings: Tensor) -> Tensor:
    """`embedded` `[B, L, H]` with the real audio embeddings `[sum N, H]` at the placeholders, in order."""
    return embedded.masked_scatter(placeholders[..., None], audio_embeddings.to(embedded.dtype))
