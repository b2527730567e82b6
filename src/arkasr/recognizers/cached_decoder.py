"""A batch of rows with their key/value cache: rows leave it when they are finished, and rows of another batch join it.

In: prompts, then tokens. Out: the decoder's states. Which tokens are written is left to others.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from arkasr.recognizers.device import to_device
from arkasr.recognizers.recognizer import Prompts, Recognizer
from arkasr.recognizers.scoring import positions


class CachedDecoder:
    """The decoder with the key/value cache and attention mask of the rows that are still in the batch.

    A rejected token stays in the cache, hidden by the mask, if another row's token in that column was accepted.
    `keep_rows` removes hidden columns. No method makes the host wait for the device.
    """

    def __init__(self, recognizer: Recognizer, prompts: Prompts) -> None:
        prompts = recognizer.embed_audio(prompts)
        self._recognizer = recognizer
        self._pending = prompts.input_ids
        self._audio = prompts.audio
        self._attention_mask = prompts.attention_mask
        self._cached_lengths = prompts.lengths
        self._cache: Any = None
        self._proposed = 0

    def step(self, proposals: Sequence[Sequence[int]]) -> Tensor:
        """Run the decoder over the pending tokens and a proposal after them in each row.

        Returns:
            The states that predict every token of each proposal and the one after it, `[sum (m_r + 1), H]`.
        """
        device = self._pending.device
        if self._cache is not None:  # the pending token enters the cache
            self._cached_lengths = [length + 1 for length in self._cached_lengths]
        lengths = torch.tensor([len(proposal) for proposal in proposals])
        self._proposed = int(lengths.max())
        in_proposal = torch.arange(self._proposed) < lengths[:, None]
        if self._proposed:
            padded = torch.zeros_like(in_proposal, dtype=torch.long)
            padded[in_proposal] = torch.tensor(list(chain.from_iterable(proposals)))
            self._pending = torch.cat((self._pending, to_device(padded, device)), dim=1)
            self._attention_mask = torch.cat((self._attention_mask, to_device(in_proposal.long(), device)), dim=1)
        states, self._cache = self._recognizer.decoder_states(
            self._pending,
            self._attention_mask,
            positions(self._attention_mask)[:, -self._pending.shape[1] :],
            self._audio,
            cache=self._cache,
            use_cache=True,
        )
        self._audio = {}
        predicting = torch.cat((torch.ones(len(proposals), 1, dtype=torch.bool), in_proposal), dim=1)
        indices = to_device(predicting.flatten().nonzero().squeeze(1), device)
        return states[:, -self._proposed - 1 :].flatten(0, 1).index_select(0, indices)

    def accept(
        self, accepted: Sequence[int], last_tokens: Sequence[int], is_going_on: Sequence[bool] | None = None
    ) -> None:
        """Hide or drop the rejected tokens of each row, and make its last token the pending one.

        Args:
            accepted: how many proposed tokens of each row.
            last_tokens: of each row.
            is_going_on: False for a finished row, whose position then stays, because positions may be limited; None =
                all go on.
        """
        device = self._pending.device
        if self._proposed:
            longest = max(accepted)
            kept = torch.arange(longest) < torch.tensor(accepted)[:, None]
            before = self._attention_mask[:, : self._attention_mask.shape[1] - self._proposed]
            self._attention_mask = torch.cat((before, to_device(kept.long(), device)), dim=1)
            if longest < self._proposed:
                self._cache.crop(longest - self._proposed)
        self._cached_lengths = [length + count for length, count in zip(self._cached_lengths, accepted, strict=True)]
        self._pending = to_device(torch.tensor(last_tokens), device)[:, None]
        visible = torch.ones_like(self._pending)
        if is_going_on is not None:
            visible *= to_device(torch.tensor(is_going_on), device)[:, None]
        self._attention_mask = torch.cat((self._attention_mask, visible), dim=1)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Remove all other rows, and shorten the cache to its longest remaining row."""
        kept = to_device(torch.tensor(rows), self._pending.device)
        self._pending = self._pending.index_select(0, kept)
        mask = self._attention_mask.index_select(0, kept)
        self._cached_lengths = [self._cached_lengths[row] for row in rows]
        in_cache = mask[:, :-1]
        columns = in_cache.argsort(dim=1, stable=True)[:, -max(self._cached_lengths) :]
        self._attention_mask = torch.cat((in_cache.gather(1, columns), mask[:, -1:]), dim=1)
        self._recognizer.select_cached(self._cache, kept, columns)

    def join(self, other: "CachedDecoder") -> None:
        """Append the rows of another decoder of the same recogniser; both are between `accept` and `step`.

        The shorter cache gets hidden columns before its first one. The other decoder is no longer used.
        """
        self._recognizer.join_cached(self._cache, other._cache)
        width = max(self._attention_mask.shape[1], other._attention_mask.shape[1])
        masks = (F.pad(mask, (width - mask.shape[1], 0)) for mask in (self._attention_mask, other._attention_mask))
        self._attention_mask = torch.cat(list(masks))
        self._pending = torch.cat((self._pending, other._pending))
        self._cached_lengths += other._cached_lengths
