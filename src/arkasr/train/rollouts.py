"""What the student writes for micro-batches: along drafts in this process, or by an engine, perhaps steps ahead.

In: prompts and utterances. Out: transcripts, the same ones for the same weights and seed. Knows nothing of the teacher
and of losses.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import accumulate, pairwise
from typing import Any

import torch

from arkasr.data.examples import Example
from arkasr.data.manifests.manifest import Utterance
from arkasr.recognizers.decoding import Sampling, Transcripts, decode
from arkasr.recognizers.engine import Engine
from arkasr.recognizers.recognizer import Prompts, Recognizer
from arkasr.recognizers.text import clean_transcript
from arkasr.train.augment import join_texts
from arkasr.train.rollout_memory import RolloutMemory
from arkasr.train.settings import ObjectiveSettings
from arkasr.train.stage import SILENCE

MicroBatch = tuple[Sequence[Example], int]


class StudentRollouts:
    """Writes for the student.

    Args:
        student: whose transcripts are written.
        settings: cap, temperature and staleness.
        drafts: by utterance, a text that the student probably writes; where there is none, the utterance's own text is
            the draft. What the student wrote itself the last time comes before either.
        engine: writes in the student's place, without drafts; None = the student itself.
    """

    def __init__(
        self, student: Recognizer, settings: ObjectiveSettings, drafts: Mapping[str, str], engine: Engine | None
    ) -> None:
        self.student = student
        self.settings = settings
        self.drafts = drafts
        self.engine = engine
        self.remembered = RolloutMemory()
        self._under_way: dict[int, tuple[list[str], Callable[[], Transcripts]]] = {}
        self._used: set[int] = set()

    @property
    def steps_ahead(self) -> int:
        """How many steps before it is used a rollout is begun."""
        return self.settings.rollouts.staleness if self.engine is not None else 0

    def begin(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Let the engine write, with the weights of now, what will be asked for by seed; all of it at a time."""
        assert self.engine is not None
        new = [(examples, seed) for examples, seed in micro_batches if seed not in self._under_way]
        if not new:
            return
        heard = [example for examples, _ in new for example in examples]
        features = [example.features[self.student.frontend] for example in heard]
        prompts = self.student.prompts(features, [example.utterance.language for example in heard])
        sampled = [self._sampling(len(examples), seed) for examples, seed in new]
        answer = cache(self._ask(self.engine, prompts, sampled))
        bounds = accumulate((len(examples) for examples, _ in new), initial=0)
        for (examples, seed), (first, last) in zip(new, pairwise(bounds), strict=True):
            self._under_way[seed] = _ids_of(examples), partial(_part_of, answer, first, last)

    def write(
        self, prompts: Prompts, examples: Sequence[Example], drafts: Sequence[Sequence[int]], seed: int
    ) -> Transcripts:
        """The transcripts of a micro-batch, without gradient.

        Args:
            prompts: on the model's device.
            examples: what the prompts were made of.
            drafts: of `drafts_of`.
            seed: of what is drawn; also names what has been begun.
        """
        ids, begun = self._under_way.get(seed, (None, None))
        if begun is not None and ids == _ids_of(examples):
            self._used.add(seed)
            return begun()
        sampling, cap = self._sampling(len(examples), seed), self.settings.max_new_tokens
        if self.engine is not None:
            return self.engine(self.student, prompts, max_new_tokens=cap, sampling=sampling)
        model = self.student.model
        training = model.training
        model.eval()
        transcripts = decode(self.student, prompts, max_new_tokens=cap, drafts=drafts, sampling=sampling)
        model.train(training)
        if training:
            self._remember(examples, transcripts)
        return transcripts

    def drafts_of(self, examples: Sequence[Example]) -> list[list[int]]:
        """Guesses at what will be written, as token ids; empty ones for an engine."""
        return [self._draft(example) if self.engine is None else [] for example in examples]

    def given_lengths(self, examples: Sequence[Example]) -> list[int | None]:
        """Tokens of the texts that `drafts` has for utterances, the stop token included; None where it has none."""
        lengths: list[int | None] = []
        for example in examples:
            parts = example.joined_from or (example.utterance,)
            texts = [text for part in parts if (text := self.drafts.get(part.id)) is not None]
            whole = len(texts) == len(parts)
            lengths.append(len(self.student.transcript_ids(join_texts(parts, texts))) if whole else None)
        return lengths

    def step_done(self) -> None:
        """Forget what the step at hand has used; one that is given up will want it again."""
        for seed in self._used:
            del self._under_way[seed]
        self._used = set()

    def under_way(self) -> dict[str, Any]:
        """What has been begun for steps that are not done, JSON-able; waits for it."""
        finished = {seed: (ids, begun()) for seed, (ids, begun) in self._under_way.items()}
        return {
            str(seed): {
                "utterances": ids,
                "tokens": [tokens.tolist() for tokens in transcripts.tokens],
                "stopped": transcripts.stopped.tolist(),
                "passes": transcripts.passes,
            }
            for seed, (ids, transcripts) in finished.items()
        }

    def restore(self, under_way: Mapping[str, Any]) -> None:
        """Have what `under_way` told of as if it had been begun here."""
        self._under_way = {
            int(seed): (document["utterances"], partial(_transcripts_of, document))
            for seed, document in under_way.items()
        }

    def _ask(self, engine: Engine, prompts: Prompts, sampled: Sequence[Sampling | None]) -> Callable[[], Transcripts]:
        sampling = None
        if self.settings.rollout_temperature > 0:
            uniforms = torch.cat([part.uniforms for part in sampled if part is not None])
            sampling = Sampling(self.settings.rollout_temperature, uniforms)
        return engine.submit(self.student, prompts, max_new_tokens=self.settings.max_new_tokens, sampling=sampling)

    def _sampling(self, count: int, seed: int) -> Sampling | None:
        if self.settings.rollout_temperature == 0:
            return None
        generator = torch.Generator().manual_seed(seed)
        uniforms = torch.rand((count, self.settings.max_new_tokens), dtype=torch.float64, generator=generator)
        return Sampling(self.settings.rollout_temperature, uniforms)

    def _draft(self, example: Example) -> list[int]:
        if not example.joined_from and (written := self.remembered.get(example.utterance.id)) is not None:
            return written
        parts = example.joined_from or (example.utterance,)
        texts = [self._draft_text(part) for part in parts]
        return self.student.transcript_ids(join_texts(parts, texts)).tolist() if any(texts) else []

    def _draft_text(self, utterance: Utterance) -> str:
        written = self.remembered.get(utterance.id)
        if written is not None:
            return clean_transcript(self.student.transcript_text(torch.tensor(written)))
        return self.drafts.get(utterance.id, utterance.text) or ""

    def _remember(self, examples: Sequence[Example], transcripts: Transcripts) -> None:
        for example, written, stopped in zip(examples, transcripts.tokens, transcripts.stopped.tolist(), strict=True):
            # A loop or nothing at all is no draft of what comes next, and the same two are not joined again.
            if stopped and len(written) > 1 and example.utterance.id != SILENCE and not example.joined_from:
                self.remembered.add(example.utterance.id, written.tolist())


def _ids_of(examples: Sequence[Example]) -> list[str]:
    return [example.utterance.id for example in examples]


def _part_of(answer: Callable[[], Transcripts], first: int, last: int) -> Transcripts:
    whole = answer()
    tokens = whole.tokens[first:last]
    return Transcripts(tokens, whole.stopped[first:last], None, max(map(len, tokens)))


def _transcripts_of(document: Mapping[str, Any]) -> Transcripts:
    tokens = [torch.tensor(tokens, dtype=torch.long) for tokens in document["tokens"]]
    return Transcripts(tokens, torch.tensor(document["stopped"], dtype=torch.bool), None, document["passes"])
