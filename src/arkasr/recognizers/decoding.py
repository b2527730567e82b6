"""Decoding of a batch of prompts with a key/value cache, along drafts where there are any.

One pass of the decoder asks for the next token of every row and, where a row has a draft, for the rest of the draft in
the same breath. What the model agrees with is kept, with its own next token behind it, so that a pass writes one token
at least and the drafts change nothing but the number of passes. Without sampling the tokens are those of
`model.generate(do_sample=False)` with the recogniser's blocked tokens suppressed. Rows that have come to their stop
leave the batch. Knows nothing of text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from arkasr.recognizers.device import to_device
from arkasr.recognizers.draft import Draft
from arkasr.recognizers.head import best_of_head, sample_of_head
from arkasr.recognizers.recognizer import Prompts, Recognizer
from arkasr.recognizers.scoring import positions

# Leaving copies what stays of the cache, so rows leave together, once this share of the batch is done.
LEAVING_SHARE = 0.25


@dataclass(frozen=True)
class Transcripts:
    """What a recogniser wrote for each clip.

    Attributes:
        tokens: B int64 tensors `[n_b]` on the CPU; the stop token is the last one where it was written.
        stopped: bool `[B]` on the CPU, False where the cap was reached first.
        states: the decoder's last states from which the tokens were chosen, clip after clip, `[sum n_b, H]` on the
            model's device; None where another engine wrote.
        passes: how many times the decoder ran.
    """

    tokens: list[Tensor]
    stopped: Tensor
    states: Tensor | None
    passes: int


@dataclass(frozen=True)
class Sampling:
    """Tokens drawn from the model's distribution instead of its best ones.

    Attributes:
        temperature: divides the scores.
        uniforms: float64 `[B, max_new_tokens]` in [0, 1); they alone decide what is drawn, with drafts and without.
    """

    temperature: float
    uniforms: Tensor


@torch.no_grad()
def decode(
    recognizer: Recognizer,
    prompts: Prompts,
    *,
    max_new_tokens: int,
    drafts: Sequence[Sequence[int]] | None = None,
    sampling: Sampling | None = None,
) -> Transcripts:
    """Write the most likely allowed token, or a drawn one, until the stop token or the cap.

    With sampling, a token is drawn at every place of a draft and compared with it. That is speculative sampling
    (arXiv 2211.17192) with a draft that is certain of itself: what is written is distributed as without a draft.

    Args:
        recognizer: the model must be in the mode (train or eval) that the caller wants.
        prompts: B of them, on the model's device.
        max_new_tokens: cap on the tokens of a transcript, the stop token included.
        drafts: B guesses at the transcripts, as token ids; an empty one where nothing is known.
        sampling: None = greedy.
    """
    head, stop, allowed = recognizer.head, recognizer.stop_token_id, recognizer.allowed_tokens
    clips = len(prompts.input_ids)
    if drafts is None:
        drafts = [()] * clips
    drafted = [Draft(_sayable(draft, recognizer.allowed_tokens), stop) for draft in drafts]
    written: list[list[int]] = [[] for _ in range(clips)]
    places: list[list[int]] = [[] for _ in range(clips)]
    states: list[Tensor] = []
    row_states = _Rows(recognizer, prompts)
    passes = asked = 0
    running = set(range(clips))
    while running:
        guesses = [
            drafted[clip].guess(max_new_tokens - len(written[clip]) - 1) if clip in running else []
            for clip in row_states.clips
        ]
        states.append(row_states.read(guesses))
        passes += 1
        if sampling is None:
            said = best_of_head(states[-1], head, allowed).tolist()
        else:
            drawn = [
                sampling.uniforms[clip, min(len(written[clip]), max_new_tokens - 1) :][: len(guess) + 1]
                for clip, guess in zip(row_states.clips, guesses, strict=True)
            ]
            uniforms = to_device(torch.cat(drawn), head.device)
            said = sample_of_head(states[-1], head, allowed, sampling.temperature, uniforms).tolist()
        agreed, first = [], 0
        for clip, guess in zip(row_states.clips, guesses, strict=True):
            agreed.append(drafted[clip].see(guess, said[first : first + len(guess) + 1]))
            if clip in running:
                following = range(first, first + agreed[-1] + 1)
                written[clip] += [said[place] for place in following]
                places[clip] += [asked + place for place in following]
                if written[clip][-1] == stop or len(written[clip]) == max_new_tokens:
                    running.remove(clip)
            first += len(guess) + 1
        asked += first
        if running:
            row_states.keep(agreed, [written[clip][-1] for clip in row_states.clips])
            if len(running) <= (1 - LEAVING_SHARE) * len(row_states.clips):
                row_states.stay([row for row, clip in enumerate(row_states.clips) if clip in running])
    return Transcripts(
        [torch.tensor(tokens) for tokens in written],
        torch.tensor([tokens[-1] == stop for tokens in written]),
        torch.cat(states).index_select(0, to_device(torch.tensor(list(chain.from_iterable(places))), head.device)),
        passes,
    )


def _sayable(draft: Sequence[int], allowed: Tensor) -> Sequence[int]:
    """A draft up to the first token that may not be written: the model would never agree with it."""
    tokens = torch.tensor(draft, dtype=torch.long, device=allowed.device)
    inside = tokens < len(allowed)
    sayable = inside & allowed[tokens.where(inside, 0)]
    return draft[: int(sayable.int().cumprod(0).sum())]


class _Rows:
    """What the decoder remembers of the rows of a batch.

    Guessed tokens that were wrong stay in the cache where another row's guess was right, hidden by the mask, until the
    cache is packed. What the host knows it tells the device, and asks it nothing.
    """

    def __init__(self, recognizer: Recognizer, prompts: Prompts) -> None:
        prompts = recognizer.embed_audio(prompts)
        self.clips = list(range(len(prompts.input_ids)))
        self._recognizer = recognizer
        self._unread = prompts.input_ids
        self._audio = prompts.audio
        self._attention_mask = prompts.attention_mask
        self._in_cache = prompts.lengths
        self._cache: Any = None
        self._guessed = 0

    def read(self, guesses: Sequence[Sequence[int]]) -> Tensor:
        """Read what is unread and a guess behind it: states `[sum (m_r + 1), H]` that say the tokens of every guess."""
        device = self._unread.device
        if self._cache is not None:  # the token that was unread goes into it
            self._in_cache = [length + 1 for length in self._in_cache]
        lengths = torch.tensor([len(guess) for guess in guesses])
        self._guessed = int(lengths.max())
        in_guess = torch.arange(self._guessed) < lengths[:, None]
        if self._guessed:
            guessed = torch.zeros_like(in_guess, dtype=torch.long)
            guessed[in_guess] = torch.tensor(list(chain.from_iterable(guesses)))
            self._unread = torch.cat((self._unread, to_device(guessed, device)), dim=1)
            self._attention_mask = torch.cat((self._attention_mask, to_device(in_guess.long(), device)), dim=1)
        states, self._cache = self._recognizer.decoder_states(
            self._unread,
            self._attention_mask,
            positions(self._attention_mask)[:, -self._unread.shape[1] :],
            self._audio,
            cache=self._cache,
            use_cache=True,
        )
        self._audio = {}
        saying = torch.cat((torch.ones(len(guesses), 1, dtype=torch.bool), in_guess), dim=1)
        places = to_device(saying.flatten().nonzero().squeeze(1), device)
        return states[:, -self._guessed - 1 :].flatten(0, 1).index_select(0, places)

    def keep(self, agreed: Sequence[int], written: Sequence[int]) -> None:
        """Forget what was guessed wrong; `written` `[R]` is each row's last token, read next."""
        device = self._unread.device
        if self._guessed:
            longest = max(agreed)
            right = torch.arange(longest) < torch.tensor(agreed)[:, None]
            before = self._attention_mask[:, : self._attention_mask.shape[1] - self._guessed]
            self._attention_mask = torch.cat((before, to_device(right.long(), device)), dim=1)
            if longest < self._guessed:
                self._cache.crop(longest - self._guessed)
        self._in_cache = [length + count for length, count in zip(self._in_cache, agreed, strict=True)]
        self._unread = to_device(torch.tensor(written), device)[:, None]
        self._attention_mask = torch.cat((self._attention_mask, torch.ones_like(self._unread)), dim=1)

    def stay(self, rows: Sequence[int]) -> None:
        """Let all other rows go, and pack the cache: what is hidden goes, as far as the longest row allows."""
        staying = to_device(torch.tensor(rows), self._unread.device)
        self._unread = self._unread.index_select(0, staying)
        mask = self._attention_mask.index_select(0, staying)
        self.clips = [self.clips[row] for row in rows]
        self._in_cache = [self._in_cache[row] for row in rows]
        in_cache = mask[:, :-1]
        columns = in_cache.argsort(dim=1, stable=True)[:, -max(self._in_cache) :]
        self._attention_mask = torch.cat((in_cache.gather(1, columns), mask[:, -1:]), dim=1)
        for layer in self._cache.layers:
            layer.keys = layer.keys[staying[:, None], :, columns].transpose(1, 2)
            layer.values = layer.values[staying[:, None], :, columns].transpose(1, 2)
