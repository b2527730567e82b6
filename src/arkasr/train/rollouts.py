"""The student's rollouts: decoded in this process with drafts, or by an engine, which may run steps ahead.

In: prompts and utterances. Out: transcripts. In float32 they depend on prompts, weights and seed only, not
on the drafts. The teacher and losses are left to others.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache as call_once
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from arkasr.data.examples import Example
from arkasr.data.manifests.manifest import Utterance
from arkasr.recognizers.decoding import Sampling, Transcripts, decode
from arkasr.recognizers.engine import Engine
from arkasr.recognizers.recognizer import Prompts, Recognizer
from arkasr.recognizers.text import clean_transcript
from arkasr.train.augment import join_texts
from arkasr.train.rollout_cache import RolloutCache
from arkasr.train.settings import ObjectiveSettings
from arkasr.train.stage import SILENCE

MicroBatch = tuple[Sequence[Example], int]


class StudentRollouts:
    """Writes the transcripts of the student's micro-batches.

    The draft of an utterance is its latest rollout with text and a stop token, else its text in `drafts`, else its own
    text.

    Args:
        student: the recogniser that is trained.
        settings: maximum length, temperature and staleness of rollouts.
        drafts: texts that the student probably writes, by utterance id.
        engine: decodes instead of the student, without drafts; None = the student decodes.
    """

    def __init__(
        self, student: Recognizer, settings: ObjectiveSettings, drafts: Mapping[str, str], engine: Engine | None
    ) -> None:
        self.student = student
        self.settings = settings
        self.drafts = drafts
        self.engine = engine
        self.cache = RolloutCache()
        self._pending: dict[int, tuple[list[str], Callable[[], Transcripts]]] = {}
        self._used: set[int] = set()

    @property
    def prefetch_steps(self) -> int:
        """How many steps ahead rollouts are started."""
        return self.settings.rollouts.staleness if self.engine is not None else 0

    def prefetch(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Start the engine on all given micro-batches at once with the current weights. `write` returns the results."""
        assert self.engine is not None
        new = [(examples, seed) for examples, seed in micro_batches if seed not in self._pending]
        if not new:
            return
        all_examples = [example for examples, _ in new for example in examples]
        features = [example.heard_by_student(self.student.frontend) for example in all_examples]
        prompts = self.student.prompts(features, [example.utterance.language for example in all_examples])
        samplings = [self._sampling(len(examples), seed) for examples, seed in new]
        wait = call_once(self._submit(self.engine, prompts, samplings))
        bounds = accumulate((len(examples) for examples, _ in new), initial=0)
        for (examples, seed), (first, last) in zip(new, pairwise(bounds), strict=True):
            self._pending[seed] = _ids_of(examples), partial(_slice_of, wait, first, last)

    def write(
        self, prompts: Prompts, examples: Sequence[Example], drafts: Sequence[Sequence[int]], seed: int
    ) -> Transcripts:
        """The transcripts of a micro-batch, without gradient.

        Args:
            prompts: on the model's device.
            examples: the utterances of the prompts.
            drafts: from `drafts_of`.
            seed: of sampling; also the key of a prefetched micro-batch.
        """
        ids, wait = self._pending.get(seed, (None, None))
        if wait is not None and ids == _ids_of(examples):
            self._used.add(seed)
            return wait()
        sampling, longest = self._sampling(len(examples), seed), self.settings.max_new_tokens
        if self.engine is not None:
            return self.engine(self.student, prompts, max_new_tokens=longest, sampling=sampling)
        model = self.student.model
        training = model.training
        model.eval()
        transcripts = decode(self.student, prompts, max_new_tokens=longest, drafts=drafts, sampling=sampling)
        model.train(training)
        if training:
            self._record(examples, transcripts)
        return transcripts

    def drafts_of(self, examples: Sequence[Example]) -> list[list[int]]:
        """Drafts of the rollouts as token ids; empty for an engine."""
        return [self._draft(example) if self.engine is None else [] for example in examples]

    def draft_text_ids(self, examples: Sequence[Example]) -> list[Tensor | None]:
        """The ids of each utterance's text in `drafts`, int64 `[n]`, with the stop token.

        None = the utterance has no text there, or a part of a joined utterance has none.
        """
        found: list[Tensor | None] = []
        for example in examples:
            parts = example.joined_from or (example.utterance,)
            texts = [text for part in parts if (text := self.drafts.get(part.id)) is not None]
            complete = len(texts) == len(parts)
            found.append(self.student.transcript_ids(join_texts(parts, texts)) if complete else None)
        return found

    def on_step_end(self) -> None:
        """Drop the pending rollouts that this step used. An interrupted step keeps them, because it is repeated."""
        for seed in self._used:
            del self._pending[seed]
        self._used = set()

    def pending(self) -> dict[str, Any]:
        """The rollouts of steps that are not complete, JSON-able, by seed; waits until they are written."""
        finished = {seed: (ids, wait()) for seed, (ids, wait) in self._pending.items()}
        return {
            str(seed): {
                "utterances": ids,
                "tokens": [tokens.tolist() for tokens in transcripts.tokens],
                "stopped": transcripts.stopped.tolist(),
                "passes": transcripts.passes,
            }
            for seed, (ids, transcripts) in finished.items()
        }

    def load_pending(self, pending: Mapping[str, Any]) -> None:
        """Restore what `pending` returned."""
        self._pending = {
            int(seed): (document["utterances"], partial(_transcripts_of, document))
            for seed, document in pending.items()
        }

    def _submit(
        self, engine: Engine, prompts: Prompts, samplings: Sequence[Sampling | None]
    ) -> Callable[[], Transcripts]:
        sampling = None
        if self.settings.rollout_temperature > 0:
            uniforms = torch.cat([part.uniforms for part in samplings if part is not None])
            sampling = Sampling(self.settings.rollout_temperature, uniforms)
        return engine.submit(self.student, prompts, max_new_tokens=self.settings.max_new_tokens, sampling=sampling)

    def _sampling(self, count: int, seed: int) -> Sampling | None:
        if self.settings.rollout_temperature == 0:
            return None
        generator = torch.Generator().manual_seed(seed)
        uniforms = torch.rand((count, self.settings.max_new_tokens), dtype=torch.float64, generator=generator)
        return Sampling(self.settings.rollout_temperature, uniforms)

    def _draft(self, example: Example) -> list[int]:
        if not example.joined_from and (tokens := self.cache.get(example.utterance.id)) is not None:
            return tokens
        parts = example.joined_from or (example.utterance,)
        texts = [self._draft_text(part) for part in parts]
        return self.student.transcript_ids(join_texts(parts, texts)).tolist() if any(texts) else []

    def _draft_text(self, utterance: Utterance) -> str:
        tokens = self.cache.get(utterance.id)
        if tokens is not None:
            return clean_transcript(self.student.transcript_text(torch.tensor(tokens)))
        return self.drafts.get(utterance.id, utterance.text) or ""

    def _record(self, examples: Sequence[Example], transcripts: Transcripts) -> None:
        for example, tokens, stopped in zip(examples, transcripts.tokens, transcripts.stopped.tolist(), strict=True):
            # A truncated or empty rollout is no useful draft. The same two utterances are rarely joined again.
            if stopped and len(tokens) > 1 and example.utterance.id != SILENCE and not example.joined_from:
                self.cache.record(example.utterance.id, tokens.tolist())


def _ids_of(examples: Sequence[Example]) -> list[str]:
    return [example.utterance.id for example in examples]


def _slice_of(wait: Callable[[], Transcripts], first: int, last: int) -> Transcripts:
    transcripts = wait()
    tokens = transcripts.tokens[first:last]
    return Transcripts(tokens, transcripts.stopped[first:last], None, max(map(len, tokens)))


def _transcripts_of(document: Mapping[str, Any]) -> Transcripts:
    tokens = [torch.tensor(tokens, dtype=torch.long) for tokens in document["tokens"]]
    return Transcripts(tokens, torch.tensor(document["stopped"], dtype=torch.bool), None, document["passes"])
