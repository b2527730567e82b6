"""Continuous batching: a finished clip leaves the batch at once, and another one enters beside those that go on.

In: clips, at any time. Out: their tokens, as `decode` would write them. Who waits and for how long is left to others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from arkasr.recognizers.cached_decoder import CachedDecoder
from arkasr.recognizers.head import log_normalisers, sampled_tokens
from arkasr.recognizers.head_scores import token_scores
from arkasr.recognizers.precision import working_dtype
from arkasr.recognizers.predictor import Predictor
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.scoring import check_transcript_length

# Removing rows copies the cache, so finished rows stay until they are this share of the batch, or others enter.
FINISHED_SHARE = 0.25


@dataclass(frozen=True)
class Clip:
    """What is to be written.

    Attributes:
        features: log-mel float32 `[mels, T]`.
        language: by name; None = unknown.
        max_new_tokens: cap on the tokens, the stop token included.
        temperature: of sampling; 0 = the best token.
        seed: of sampling.
        context: of `Recognizer.context_ids`; empty = none.
        scored: whether `Written.log_probabilities` is wanted. It costs one more pass of the output head.
    """

    features: Tensor
    language: str | None
    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    context: Sequence[int] = ()
    scored: bool = False


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        tokens: int64 `[n]` on the CPU, with the stop token if it was written.
        stopped: False if the cap was reached first.
        log_probabilities: of each token among those that may stand at its place, at temperature 1, float32 `[n]` on the
            CPU; None if not wanted.
        language: by name, as given or detected; None if the family's prompts name none.
    """

    tokens: Tensor
    stopped: bool
    log_probabilities: Tensor | None
    language: str | None


@dataclass
class _Row:
    key: int
    clip: Clip
    generator: torch.Generator | None
    language: str | None
    tokens: list[int] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    finished: bool = False


class ContinuousDecoder:
    """A batch that clips enter and leave.

    Args:
        recognizer: its model is put into eval mode.
    """

    def __init__(self, recognizer: Recognizer) -> None:
        recognizer.model.eval()
        self._recognizer = recognizer
        self._predictor = Predictor(recognizer, None)
        self._decoder: CachedDecoder | None = None
        self._rows: list[_Row] = []

    @property
    def keys(self) -> list[int]:
        """The clips that are not finished."""
        return [row.key for row in self._rows if not row.finished]

    def drop(self, key: int) -> None:
        """Give up a clip; `step` no longer returns it."""
        for row in self._rows:
            row.finished |= row.key == key

    @torch.no_grad()
    def enter(self, clips: Mapping[int, Clip]) -> dict[int, Written]:
        """Encode clips, write the first token of each, and add them to the batch.

        Args:
            clips: at least one; their keys differ from those in the batch.

        Returns:
            Those that are finished already.

        Raises:
            InputError: the model cannot write so many tokens, or does not know a language. No clip enters.
        """
        for clip in clips.values():
            check_transcript_length(self._recognizer, clip.max_new_tokens, "max_new_tokens")
        features, languages = zip(*((clip.features, clip.language) for clip in clips.values()), strict=True)
        prompts = self._recognizer.prompts(list(features), list(languages))
        if any(clip.context for clip in clips.values()):
            prompts = self._recognizer.with_contexts(prompts, [clip.context for clip in clips.values()])
        prompts = self._recognizer.embed_audio(prompts.to(self._recognizer.device))
        rows = [
            _Row(key, clip, _generator(clip), self._recognizer.language_of(prompt_ids))
            for (key, clip), prompt_ids in zip(clips.items(), prompts.input_ids, strict=True)
        ]
        decoder = CachedDecoder(self._recognizer, prompts)
        written = self._write_next(decoder, rows, is_first=True)
        # The cache is copied in any case, so all finished rows leave.
        self._leave(0.0)
        if self._decoder is None:
            self._decoder, self._rows = decoder, rows
        else:
            self._decoder.join(decoder)
            self._rows += rows
        self._leave(1.0)  # if nothing is left to do, no cache is kept
        return written

    @torch.no_grad()
    def step(self) -> dict[int, Written]:
        """Write one more token of every clip in the batch.

        Returns:
            Those that are finished now.
        """
        self._leave(FINISHED_SHARE)
        if self._decoder is None:
            return {}
        written = self._write_next(self._decoder, self._rows, is_first=False)
        self._leave(1.0)
        return written

    def _write_next(self, decoder: CachedDecoder, rows: list[_Row], *, is_first: bool) -> dict[int, Written]:
        states = decoder.step([[]] * len(rows))
        tokens = self._predictor.predict(states, None)
        if is_first:
            self._predictor.replace_first(tokens, states, [[]] * len(rows), None)
        written = {}
        for index, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
            if row.finished:
                continue
            if row.generator is not None:
                token = self._sampled(states[index : index + 1], row, is_first=is_first)
            row.tokens.append(token)
            if row.clip.scored:
                row.states.append(states[index])
            row.finished = token == self._recognizer.stop_token_id or len(row.tokens) == row.clip.max_new_tokens
            if row.finished:
                written[row.key] = self._result(row)
        decoder.accept([0] * len(rows), [row.tokens[-1] for row in rows], [not row.finished for row in rows])
        return written

    def _sampled(self, state: Tensor, row: _Row, *, is_first: bool) -> int:
        recognizer = self._recognizer
        allowed = recognizer.allowed_first_tokens if is_first else recognizer.allowed_tokens
        uniform = torch.rand(1, dtype=torch.float64, generator=row.generator)
        return int(sampled_tokens(state, recognizer.head, allowed, row.clip.temperature, uniform.to(state.device)))

    def _result(self, row: _Row) -> Written:
        tokens = torch.tensor(row.tokens)
        scores = None
        if row.clip.scored:
            states, head = torch.stack(row.states), self._recognizer.head
            chosen = token_scores(states, head, tokens.to(states.device)[:, None], working_dtype(states))[:, 0]
            normalisers = (
                log_normalisers(states[:1], head, self._recognizer.allowed_first_tokens),
                log_normalisers(states[1:], head, self._recognizer.allowed_tokens),
            )
            scores = (chosen - torch.cat(normalisers)).float().cpu()
        return Written(tokens, row.tokens[-1] == self._recognizer.stop_token_id, scores, row.language)

    def _leave(self, share: float) -> None:
        """Remove the finished rows if they are this share of the batch."""
        going_on = [index for index, row in enumerate(self._rows) if not row.finished]
        if self._decoder is None or len(self._rows) - len(going_on) < share * len(self._rows):
            return
        if not going_on:
            self._decoder, self._rows = None, []
        elif len(going_on) < len(self._rows):
            self._decoder.keep_rows(going_on)
            self._rows = [self._rows[index] for index in going_on]


def _generator(clip: Clip) -> torch.Generator | None:
    return torch.Generator().manual_seed(clip.seed) if clip.temperature > 0 else None
