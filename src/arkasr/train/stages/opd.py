"""On-policy distillation: the student writes, the teacher says at each token what it would have written.

One micro-batch of algorithm 1 (arXiv 2605.28139, section 3): rollout, teacher forcing, union support, divergence. The
mathematics is in `arkasr.distill`; this file only brings the two models and the utterances together.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from arkasr.data.examples import Example
from arkasr.distill.alignment import Alignment, map_transcript, retokenise
from arkasr.distill.diagnostics import rollout_statistics, support_diagnostics
from arkasr.distill.fused import fused_union_topk_kl, named_union_topk_kl, needs_every_score
from arkasr.distill.objective import UnionTopkKL
from arkasr.distill.rollout import Rollout, Rollouts, keep_rollouts
from arkasr.distill.support import look_up
from arkasr.errors import InputError
from arkasr.recognizers.device import to_device
from arkasr.recognizers.engine import Engine
from arkasr.recognizers.head import Top, as_computed, top_of_head
from arkasr.recognizers.recognizer import Prompts, Recognizer
from arkasr.recognizers.scoring import forced_logits, forced_states
from arkasr.teacher.in_process import InProcessTeacher
from arkasr.teacher.teacher import ScoringRequest, SparseScores, Teacher, TeacherScores
from arkasr.teacher.vocabulary import map_vocabularies
from arkasr.train.augment import augment_features, join_utterances
from arkasr.train.distribution import unsharded_weights
from arkasr.train.loop_watch import LoopWatch
from arkasr.train.metrics import Metrics
from arkasr.train.rollouts import MicroBatch, StudentRollouts
from arkasr.train.settings import AugmentationSettings, ObjectiveSettings
from arkasr.train.stage import Stage, StageLoss

# A few odd rollouts say nothing about two vocabularies.
JUDGED_FROM_TOKENS = 200


class DistillationStage(Stage):
    """Union top-k divergence from the teacher along the student's own transcripts, per valid position.

    The encoder runs once for rollout and gradient, and so in the mode of training; Ark-ASR's has no dropout.

    Args:
        student: learns.
        teacher: scores; a recogniser does so in this process, and its weights do not change. Closed with the stage.
        settings: the objective.
        drafts: by utterance, a text that the student probably writes, such as the teacher's label; they spare time and
            change nothing else.
        engine: writes the rollouts; None = the student itself, along the drafts.
        augmentation: of what both models hear; None = the recordings as they are.

    Raises:
        InputError: the objective looks at scores that the teacher does not give.
    """

    def __init__(
        self,
        student: Recognizer,
        teacher: Recognizer | Teacher,
        settings: ObjectiveSettings,
        drafts: Mapping[str, str] | None = None,
        engine: Engine | None = None,
        augmentation: AugmentationSettings | None = None,
    ) -> None:
        super().__init__(student)
        # A plain attribute of a non-module keeps the teacher out of parameters() and of checkpoints.
        self.teacher: Teacher = InProcessTeacher(teacher) if isinstance(teacher, Recognizer) else teacher
        self.settings = settings
        self.augmentation = augmentation
        self.loop_watch = LoopWatch()
        self.dense = needs_every_score(settings.support, settings.tail)
        if (self.dense or settings.upstream_scores) and not self.teacher.full_vocabulary:
            raise InputError(
                "objective: `support: full`, `tail: bucket` and `upstream_scores` look at scores that a served teacher "
                "does not give; leave them out, or take the teacher into the training process"
            )
        if augmentation is not None and not self.teacher.full_vocabulary:
            raise InputError("augmentation: a served teacher hears the recording as it is; leave it out")
        drafts = {} if drafts is None else drafts  # asking how many there are may read them all
        self.rollouts = StudentRollouts(student, settings, drafts, engine)
        self._paired = self._written = 0
        self._moved: dict[str, Tensor] | None = None
        self.vocabulary = map_vocabularies(
            student.tokenizer,
            self.teacher.tokenizer,
            student_stop=student.stop_token_id,
            teacher_stop=self.teacher.stop_token_id,
            student_vocab_size=student.vocab_size,
            teacher_vocab_size=self.teacher.vocab_size,
        )

    def loss(self, examples: Sequence[Example], seed: int) -> StageLoss:
        """Compare student and teacher on what the student writes for a micro-batch."""
        device = self.student.device
        examples = self._augmented(examples, seed)
        features = [example.features[self.student.frontend] for example in examples]
        prompts = self.student.prompts(features, [example.utterance.language for example in examples]).to(device)
        # The weights stand still from here to the loss: the encoder runs once, for the rollout and for the gradient.
        with self.clock("encode"):
            prompts = self.student.embed_audio(prompts)
        with self.clock("rollout"), unsharded_weights(self.model):
            drafts = self.rollouts.drafts_of(examples)
            transcripts = self.rollouts.write(prompts.detach(), examples, drafts, seed)
            references = [example.utterance.text for example in examples]
            rollouts = keep_rollouts(self.student, transcripts, references)
            student_top, top_states = (
                self._top_at_rollout(rollouts.kept, prompts.detach()) if rollouts.kept else (None, None)
            )
        metrics = self._rollout_metrics(rollouts)
        metrics.mean("rollout/drafted_share", sum(map(bool, drafts)), len(drafts))
        self._count_length(metrics, rollouts, self.rollouts.given_lengths(examples))
        if student_top is None:
            # Through the model all the same, as on other processes.
            stop = torch.tensor([self.student.stop_token_id])
            nothing = forced_logits(self.student, prompts, [stop] * len(examples)).sum() * 0.0
            return StageLoss(nothing, torch.zeros((), dtype=torch.long, device=device), metrics)

        written = [rollout.tokens for rollout in rollouts.kept]
        prompts = prompts.select([rollout.clip for rollout in rollouts.kept])
        with self.clock("teacher"):
            alignments = [self._align(transcript) for transcript in written]
            heard = [examples[rollout.clip] for rollout in rollouts.kept]
            self._count_pairing(metrics, written, alignments)
            questions = self._questions(heard, written, alignments, student_top)
            # A teacher elsewhere works while the student reads what it wrote.
            answer = self.teacher.submit(questions, None if self.dense else self.settings.top_k, device)
        with self.clock("student"):
            student_states = forced_states(self.student, prompts, written)
        with self.clock("teacher"):
            teacher_scores = answer(self.stop_asked)
        if teacher_scores is None:
            nothing = (student_states.sum() + self.student.head.sum()) * 0.0
            return StageLoss(nothing, torch.zeros((), dtype=torch.long, device=device), metrics, given_up=True)
        with self.clock("student"):
            paired = torch.cat([alignment.teacher_positions >= 0 for alignment in alignments])
            compared = paired
            if self.settings.looping == "mask":
                compared = paired & torch.cat([rollout.outside_loop() for rollout in rollouts.kept])
            generated = torch.cat(written).masked_fill(~compared, -1)
            result = self._compare(
                student_states, student_top, top_states, teacher_scores, to_device(generated, device)
            )
            self._count_positions(metrics, result)
        return StageLoss(result.per_position.sum(), result.valid.sum(), metrics)

    @property
    def recognizers(self) -> list[Recognizer | Teacher]:
        return [self.student, self.teacher]

    @property
    def steps_ahead(self) -> int:
        return self.rollouts.steps_ahead

    def announce(self, micro_batches: Sequence[MicroBatch]) -> None:
        with self.clock("rollout"), unsharded_weights(self):
            self.rollouts.begin(
                [(self._augmented(self.filled(examples), seed), seed) for examples, seed in micro_batches]
            )

    def under_way(self) -> dict[str, Any]:
        return self.rollouts.under_way()

    def memory(self) -> dict[str, Tensor]:
        return self.rollouts.remembered.tensors() | {
            "pairing": torch.tensor([self._paired, self._written]),
            "loops": self.loop_watch.tensor(),
        }

    def remember(self, memory: Mapping[str, Tensor], under_way: Mapping[str, Any]) -> None:
        self.rollouts.remembered.restore(memory)
        self.rollouts.restore(under_way)
        self._paired, self._written = memory["pairing"].tolist()
        self.loop_watch.restore(memory["loops"])
        self.updated()

    def close(self) -> None:
        self.teacher.close()
        if self.rollouts.engine is not None:
            self.rollouts.engine.close()

    def updated(self) -> None:
        if self.rollouts.engine is not None:
            self.rollouts.engine.updated()

    def judge(self, step: Metrics) -> str | None:
        """Count how many of all tokens so far the teacher can answer for, and see whether more and more rollouts loop.

        Raises:
            InputError: fewer than `min_mapped_share`.
        """
        self._judge_pairing(step)
        runaway, rollouts = step.counted("rollout/runaway")
        return self.loop_watch.step(int(runaway), int(rollouts))

    def _judge_pairing(self, step: Metrics) -> None:
        paired, written = step.counted("teacher/paired_share")
        self._paired += int(paired)
        self._written += int(written)
        if self._written < JUDGED_FROM_TOKENS:
            return
        share = self._paired / self._written
        if share < self.settings.min_mapped_share:
            raise InputError(
                f"objective.min_mapped_share: the teacher can score {share:.0%} of the rollout tokens, less than the "
                f"{self.settings.min_mapped_share:.0%} asked for; use a teacher with a nearer vocabulary, or lower it"
            )

    def take_news(self) -> dict[str, Any]:
        return self.rollouts.remembered.take_news()

    def learn_news(self, news: Mapping[str, Any]) -> None:
        self.rollouts.remembered.learn(news)

    def step_done(self) -> None:
        self.rollouts.step_done()

    def _augmented(self, examples: Sequence[Example], seed: int) -> list[Example]:
        """What both models hear of a micro-batch."""
        return augment_features(join_utterances(examples, self.augmentation, seed), self.augmentation, seed)

    def _align(self, transcript: Tensor) -> Alignment:
        teacher_ids = map_transcript(transcript, self.vocabulary)
        if teacher_ids is not None:
            return Alignment(teacher_ids, torch.arange(len(teacher_ids)))
        return retokenise(
            transcript,
            self.student.tokenizer,
            self.teacher.tokenizer,
            student_stop=self.student.stop_token_id,
            teacher_stop=self.teacher.stop_token_id,
        )

    def _questions(
        self, heard: Sequence[Example], transcripts: Sequence[Tensor], alignments: Sequence[Alignment], student_top: Top
    ) -> list[ScoringRequest]:
        """What the teacher is asked about every utterance: its scores, those of K^S_t and of y_t among them."""
        # A teacher that gives every score is not told which, and the device is not asked for them.
        nothing = torch.empty((len(student_top.ids), 0), dtype=torch.long)
        ids = nothing if self.teacher.full_vocabulary else student_top.ids.cpu()
        proposed = ids.split([len(transcript) for transcript in transcripts])
        return [
            ScoringRequest(
                example.features[self.teacher.frontend],
                example.utterance.language,
                alignment.teacher_ids,
                alignment.teacher_positions,
                look_up(self.vocabulary.student_to_teacher, torch.cat((ids, transcript.cpu()[:, None]), dim=1)),
            )
            for example, transcript, alignment, ids in zip(heard, transcripts, alignments, proposed, strict=True)
        ]

    def _compare(
        self,
        student_states: Tensor,
        student_top: Top,
        top_states: Tensor | None,
        teacher: TeacherScores,
        generated: Tensor,
    ) -> UnionTopkKL:
        options: dict[str, Any] = {
            "top_k": self.settings.top_k,
            "temperature": self.settings.temperature,
            **self._vocabularies_on(student_states.device),
            "student_top": student_top,
            "student_top_hidden": top_states,
            "generated": generated,
            "divergence": self.settings.divergence,
            "support": self.settings.support,
            "beta": self.settings.beta,
            "sparse_head_gradient": self.student.head is self.student.model.get_input_embeddings().weight,
        }
        if isinstance(teacher, SparseScores):
            return named_union_topk_kl(student_states, self.student.head, teacher, **options)
        return fused_union_topk_kl(
            student_states,
            self.student.head,
            teacher.hidden,
            teacher.head,
            teacher_top=teacher.top,
            tail=self.settings.tail,
            upstream_scores=self.settings.upstream_scores,
            **options,
        )

    def _vocabularies_on(self, device: torch.device) -> dict[str, Tensor]:
        """The map between the vocabularies both ways, and what either side may say; moved once."""
        if self._moved is None or self._moved["student_allowed"].device != device:
            self._moved = {
                "teacher_to_student": self.vocabulary.teacher_to_student.to(device),
                "student_to_teacher": self.vocabulary.student_to_teacher.to(device),
                "student_allowed": self.student.allowed_tokens.to(device),
                "teacher_allowed": self.teacher.allowed_tokens.to(device),
            }
        return self._moved

    @torch.no_grad()
    def _top_at_rollout(self, kept: Sequence[Rollout], prompts: Prompts) -> tuple[Top, Tensor | None]:
        """What the student found best as it wrote; for references, which it did not write, as it reads them now.

        Returns:
            The best tokens, and the states that they were found from where these are not to rounding of float32 those
            of teacher forcing.
        """
        written = [rollout.states for rollout in kept]
        given = [place for place, states in enumerate(written) if states is None]
        if given:
            references = [kept[place].tokens for place in given]
            read = forced_states(self.student, prompts.select([kept[place].clip for place in given]), references)
            parts = read.split([len(tokens) for tokens in references])
            for place, states in zip(given, parts, strict=True):
                written[place] = states
        states = torch.cat([states for states in written if states is not None])
        allowed, head = self.student.allowed_tokens, self.student.head.detach()
        top = top_of_head(states, head, allowed, self.settings.top_k, torch.float32)
        return top, states if as_computed(states).dtype in (torch.bfloat16, torch.float16) else None

    def _rollout_metrics(self, rollouts: Rollouts) -> Metrics:
        metrics = Metrics()
        statistics = rollout_statistics(rollouts.written, rollouts.stopped, self.settings.max_new_tokens)
        batch = len(rollouts.written)
        for name, values in statistics.items():
            metrics.mean(f"rollout/{name}", values.float().sum(), batch)
        looping = [loop is not None for loop in rollouts.loops]
        metrics.mean("rollout/looping", sum(looping), batch)
        runaway = torch.tensor(looping, device=rollouts.stopped.device) | statistics["truncated"]
        metrics.mean("rollout/runaway", runaway.sum(), batch)
        metrics.mean("rollout/fallback_rate", rollouts.fallbacks, batch)
        metrics.mean("rollout/skipped_rate", rollouts.skipped, batch)
        metrics.mean("rollout/passes", rollouts.passes, 1)
        return metrics

    def _count_length(self, metrics: Metrics, rollouts: Rollouts, given: Sequence[int | None]) -> None:
        """Log the length of the rollouts against the texts of `drafts`, which are the teacher's if it labelled them."""
        written = [
            (len(tokens), length) for tokens, length in zip(rollouts.written, given, strict=True) if length is not None
        ]
        if written:
            tokens, expected = map(sum, zip(*written, strict=True))
            metrics.mean("rollout/length_ratio", tokens, expected)

    def _count_pairing(self, metrics: Metrics, transcripts: Sequence[Tensor], alignments: Sequence[Alignment]) -> None:
        """Log how well the teacher can answer."""
        tokens = torch.cat(list(transcripts))
        positions = torch.cat([alignment.teacher_positions for alignment in alignments])
        metrics.mean("teacher/paired_share", (positions >= 0).sum(), len(positions))
        metrics.mean("teacher/mapped_share", (self.vocabulary.student_to_teacher[tokens] >= 0).sum(), len(tokens))
        for transcript, alignment in zip(transcripts, alignments, strict=True):
            exact = map_transcript(transcript, self.vocabulary) is not None
            metrics.mean("teacher/retokenised_rate", not exact, 1)
            if not exact:
                unpaired = (alignment.teacher_positions < 0).sum()
                metrics.mean("teacher/retokenisation_mismatch_rate", unpaired, len(transcript))

    def _count_positions(self, metrics: Metrics, result: UnionTopkKL) -> None:
        valid = result.valid
        count = valid.sum()
        metrics.mean("support/valid_share", count, len(valid))
        diagnostics = support_diagnostics(result, top_k=self.settings.top_k)
        sizes = diagnostics.pop("vuss")
        metrics.mean("support/vuss_mean", sizes.sum(), count)
        if len(sizes):
            metrics.minimum("support/vuss_min", sizes.masked_fill(~valid, torch.inf).min())
            metrics.maximum("support/vuss_max", sizes.masked_fill(~valid, -torch.inf).max())
        shared = valid & (diagnostics.pop("overlap") > 0)
        for name, values in diagnostics.items():
            # A served teacher's entropy is not known.
            defined = (shared if name == "overlap_advantage" else valid) & ~values.isnan()
            metrics.mean(f"support/{name}", torch.where(defined, values, 0.0).sum(), defined.sum())
