"""Decoding of a batch of prompts with a key/value cache, along drafts where there are any.

Each pass of the decoder predicts the next token of every row, and verifies the row's proposal from its draft. A
proposed token is accepted only if the model predicts the same one. In float32, drafts therefore change only the number
of passes. Without sampling, the tokens equal those of `model.generate(do_sample=False)` with the same tokens
suppressed. Text is left to others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import torch
from torch import Tensor

from arkasr.recognizers.cached_decoder import CachedDecoder
from arkasr.recognizers.device import to_device
from arkasr.recognizers.draft import Draft
from arkasr.recognizers.predictor import Predictor
from arkasr.recognizers.recognizer import Prompts, Recognizer
from arkasr.recognizers.scoring import check_transcript_length

# Finished rows leave the batch together, once they are this share of it, because removing rows copies the cache.
FINISHED_SHARE = 0.25


@dataclass(frozen=True)
class Transcripts:
    """What a recogniser wrote for each clip.

    Attributes:
        tokens: B int64 tensors `[n_b]` on the CPU, with the stop token if it was written.
        stopped: bool `[B]` on the CPU, False where the cap was reached first.
        states: the decoder's last hidden states that predicted the tokens, clip after clip, `[sum n_b, H]` on the
            model's device; None if another engine wrote.
        passes: how many times the decoder ran.
    """

    tokens: list[Tensor]
    stopped: Tensor
    states: Tensor | None
    passes: int


@dataclass(frozen=True)
class Sampling:
    """Tokens sampled from the model's distribution instead of its best ones.

    Attributes:
        temperature: divides the scores.
        uniforms: float64 `[B, max_new_tokens]` in [0, 1), one for each token; they determine the sampled tokens,
            whether or not there is a draft.
    """

    temperature: float
    uniforms: Tensor


@dataclass
class _Row:
    """The transcript of one clip while it is written.

    Attributes:
        uniforms: float64 `[max_new_tokens]`, as in `Sampling`; empty for greedy decoding.
        tokens: written so far.
        state_indices: of each token, the index of the state that predicted it, among the states of all passes.
    """

    draft: Draft
    stop_token_id: int
    max_new_tokens: int
    uniforms: Tensor
    tokens: list[int] = field(default_factory=list)
    state_indices: list[int] = field(default_factory=list)

    @property
    def stopped(self) -> bool:
        return self.tokens[-1:] == [self.stop_token_id]

    @property
    def finished(self) -> bool:
        return self.stopped or len(self.tokens) == self.max_new_tokens

    def propose(self) -> list[int]:
        """Tokens to verify in the next pass, leaving room for the model's own next token."""
        return [] if self.finished else self.draft.propose(self.max_new_tokens - len(self.tokens) - 1)

    def next_uniforms(self, proposal: Sequence[int]) -> Tensor:
        """The uniform numbers of the proposed tokens and the next one.

        A pass needs a number for every row, so a finished row gives an unused one.
        """
        first = min(len(self.tokens), self.max_new_tokens - 1)
        return self.uniforms[first : first + len(proposal) + 1]

    def extend(self, proposal: Sequence[int], predicted: list[int], first_state: int) -> int:
        """Append the accepted tokens and the next one; returns how many tokens were accepted.

        Args:
            proposal: `[m]`, from `propose`.
            predicted: `[m + 1]`, as for `Draft.verify`.
            first_state: index of the state of the first prediction.
        """
        if self.finished:
            return 0
        accepted = self.draft.verify(proposal, predicted)
        self.tokens += predicted[: accepted + 1]
        self.state_indices += range(first_state, first_state + accepted + 1)
        return accepted


@torch.no_grad()
def decode(
    recognizer: Recognizer,
    prompts: Prompts,
    *,
    max_new_tokens: int,
    drafts: Sequence[Sequence[int]] | None = None,
    sampling: Sampling | None = None,
) -> Transcripts:
    """Write the most likely allowed token, or a sampled one, until the stop token or the cap.

    With sampling, a token is sampled at every position of a proposal and compared with it. This is speculative
    sampling (arXiv 2211.17192) whose draft puts probability 1 on its token: the transcripts follow the same
    distribution as without drafts.

    Args:
        recognizer: the model must be in the mode (train or eval) that the caller wants.
        prompts: B of them, on the model's device.
        max_new_tokens: cap on the tokens of a transcript, the stop token included.
        drafts: of B transcripts, as token ids; an empty one where nothing is known.
        sampling: None = greedy.

    Raises:
        InputError: the model cannot write so many tokens.
    """
    check_transcript_length(recognizer, max_new_tokens, "max_new_tokens")
    stop, allowed = recognizer.stop_token_id, recognizer.allowed_tokens
    clips = len(prompts.input_ids)
    uniforms_by_clip = torch.empty(clips, 0) if sampling is None else sampling.uniforms
    rows = [
        _Row(Draft(_allowed_prefix(draft, allowed), stop), stop, max_new_tokens, uniforms)
        for draft, uniforms in zip(drafts or [()] * clips, uniforms_by_clip, strict=True)
    ]
    predictor = Predictor(recognizer, None if sampling is None else sampling.temperature)
    decoder = CachedDecoder(recognizer, prompts)
    batch = rows
    states: list[Tensor] = []
    state_count = 0
    while not all(row.finished for row in rows):
        proposals = [row.propose() for row in batch]
        states.append(decoder.step(proposals))
        uniforms = None
        if sampling is not None:
            uniforms = torch.cat([row.next_uniforms(proposal) for row, proposal in zip(batch, proposals, strict=True)])
        tokens = predictor.predict(states[-1], uniforms)
        if len(states) == 1:
            predictor.replace_first(tokens, states[0], proposals, uniforms)
        predictions, accepted = iter(tokens.tolist()), []
        for row, proposal in zip(batch, proposals, strict=True):
            predicted = list(islice(predictions, len(proposal) + 1))
            accepted.append(row.extend(proposal, predicted, state_count))
            state_count += len(predicted)
        unfinished = [index for index, row in enumerate(batch) if not row.finished]
        if unfinished:
            decoder.accept(accepted, [row.tokens[-1] for row in batch])
            if len(unfinished) <= (1 - FINISHED_SHARE) * len(batch):
                decoder.keep_rows(unfinished)
                batch = [batch[index] for index in unfinished]
    indices = torch.tensor(list(chain.from_iterable(row.state_indices for row in rows)))
    return Transcripts(
        [torch.tensor(row.tokens) for row in rows],
        torch.tensor([row.stopped for row in rows]),
        torch.cat(states).index_select(0, to_device(indices, states[0].device)),
        passes=len(states),
    )


def _allowed_prefix(draft: Sequence[int], allowed: Tensor) -> Sequence[int]:
    """A draft up to its first token that may not be written, because the model never accepts that token."""
    tokens = torch.tensor(draft, dtype=torch.long, device=allowed.device)
    in_vocabulary = tokens < len(allowed)
    writable = in_vocabulary & allowed[tokens.where(in_vocabulary, 0)]
    return draft[: int(writable.int().cumprod(0).sum())]
