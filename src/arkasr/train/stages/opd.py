"""On-policy distillation: the student generates a transcript, and the teacher scores each of its tokens.

One micro-batch of algorithm 1 (arXiv 2605.28139, section 3): rollout, teacher forcing, union support, divergence. In:
utterances. Out: the loss and its metrics. The mathematics is in `arkasr.distill`, the optimizer step in
`train/step.py`.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from arkasr.data.examples import Example
from arkasr.distill.alignment import Alignment, Segment
from arkasr.distill.fused import StudentStates, divergence_from_states
from arkasr.distill.kept_rollouts import Rollout, prepare_rollouts
from arkasr.distill.options import Objective
from arkasr.distill.rejections import after_accepted_token
from arkasr.distill.segments import comparable_segments, divergence_of_segments, tokens_of_segments
from arkasr.errors import InputError
from arkasr.recognizers.device import to_device
from arkasr.recognizers.engine import Engine
from arkasr.recognizers.head import TopTokens, top_tokens
from arkasr.recognizers.precision import product_dtype
from arkasr.recognizers.recognizer import Prompts, Recognizer
from arkasr.recognizers.scoring import forced_logits, forced_states
from arkasr.recognizers.tokenizer_check import check_tokenizer
from arkasr.teacher.in_process import InProcessTeacher
from arkasr.teacher.teacher import Teacher, TeacherScores, TeacherStates
from arkasr.train.augment import augment_features, join_utterances
from arkasr.train.distribution import unsharded_weights
from arkasr.train.loop_watch import LoopWatch
from arkasr.train.metrics import Metrics
from arkasr.train.opd_metrics import add_alignments, add_length_ratio, add_positions, add_rollouts, add_segments
from arkasr.train.pairing_watch import PairingWatch
from arkasr.train.rollouts import MicroBatch, StudentRollouts
from arkasr.train.settings import AugmentationSettings, ObjectiveSettings
from arkasr.train.stage import Stage, StageLoss
from arkasr.train.stages.label_loss import add_labels
from arkasr.train.stages.teacher_tokens import TeacherTokens


class DistillationStage(Stage):
    """The divergence from the teacher, summed over the valid positions of the student's own transcripts.

    The encoder runs once, in training mode, for the gradient and for a rollout in this process. Training mode does not
    change the rollout, because the encoders have no dropout.

    Args:
        student: the recogniser that is trained.
        teacher: scores the rollouts. A `Recognizer` is run in this process, with fixed weights. The stage closes its
            teacher.
        settings: the objective and the rollouts.
        drafts: by utterance id, a text that the student is likely to generate, such as the teacher's label. In
            float32, drafts do not change the rollouts. With `label_weight`, they are the labels.
        engine: generates the rollouts; None = the student itself, with the drafts.
        augmentation: of the features that both models read; None = none.

    Raises:
        InputError: the objective or the augmentation needs a teacher in this process. A tokenizer is damaged, or a
            stop token has no logit.
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
        # A Teacher is not a module, so its weights are neither in parameters() nor in checkpoints.
        self.teacher: Teacher = InProcessTeacher(teacher) if isinstance(teacher, Recognizer) else teacher
        check_tokenizer(self.teacher.tokenizer, "the teacher")
        self.settings = settings
        self.objective = Objective(**{field.name: getattr(settings, field.name) for field in fields(Objective)})
        self.augmentation = augmentation
        if self.objective.needs_teacher_states and not self.teacher.full_vocabulary:
            raise InputError(
                "objective: `support: full`, `tail: bucket` and `upstream_scores` need scores that a served teacher "
                "does not give; remove these keys, or load the teacher in the training process"
            )
        if augmentation is not None and not self.teacher.full_vocabulary:
            raise InputError(
                "augmentation: a served teacher receives the original recording; remove it, or use `degradation`"
            )
        # `drafts or {}` would call len(), which may read every draft.
        drafts = {} if drafts is None else drafts
        self.rollouts = StudentRollouts(student, settings, drafts, engine)
        self.loop_watch = LoopWatch()
        self.pairing_watch = PairingWatch(settings.min_paired_share)
        self.tokens = TeacherTokens(student, self.teacher, in_pieces=settings.unpaired == "pieces")
        self._unpaired: Counter[int] = Counter()

    def loss(self, examples: Sequence[Example], seed: int) -> StageLoss:
        """Compare student and teacher on the student's rollouts for a micro-batch."""
        examples = self._augmented(examples, seed)
        features = [example.heard_by_student(self.student.frontend) for example in examples]
        languages = [example.utterance.language for example in examples]
        prompts = self.student.prompts(features, languages).to(self.student.device)
        # The weights do not change before the loss, so one encoder pass is enough for the rollout and the gradient.
        with self.clock("encode"):
            prompts = self.student.embed_audio(prompts)
        with self.clock("rollout"), unsharded_weights(self.model):
            drafts = self.rollouts.drafts_of(examples)
            transcripts = self.rollouts.write(prompts.detach(), examples, drafts, seed)
            references = [example.utterance.text for example in examples]
            rollouts = prepare_rollouts(self.student, transcripts, references)
            top_and_states = self._top_at_rollout(rollouts.kept, prompts.detach()) if rollouts.kept else None
        metrics = Metrics()
        add_rollouts(metrics, rollouts, drafts, self.settings.max_new_tokens)
        labels = self.rollouts.draft_text_ids(examples)
        add_length_ratio(metrics, rollouts, labels)
        if top_and_states is None:
            # Every process must run the same forward and backward passes.
            stop = torch.tensor([self.student.stop_token_id])
            loss = _no_loss(forced_logits(self.student, prompts, [stop] * len(examples)).sum(), metrics)
        else:
            loss = self._loss_of_rollouts(examples, prompts, rollouts.kept, top_and_states, metrics)
        learns_labels = self.settings.label_weight > 0 and self.training  # not in a calibration
        if not learns_labels:
            return loss
        with self.clock("student"):
            return add_labels(loss, self.student, prompts, labels, self.settings.label_weight)

    def _loss_of_rollouts(
        self,
        examples: Sequence[Example],
        prompts: Prompts,
        kept: Sequence[Rollout],
        top_and_states: tuple[TopTokens, Tensor | None],
        metrics: Metrics,
    ) -> StageLoss:
        device, top_k = self.student.device, self.objective.top_k
        student_top, top_states = top_and_states
        with self.clock("teacher"):
            alignments = [self.tokens.align(rollout.tokens) for rollout in kept]
            add_alignments(metrics, kept, alignments, self.tokens.student_to_teacher)
            self._count_unpaired(kept, alignments)
            segments = self._segments(kept, alignments)
            requests = self.tokens.requests(examples, kept, alignments, segments, student_top)
            # A served teacher works while the student reads its rollouts.
            needs_all = self.objective.needs_every_score or self.tokens.pieces is not None
            pending_scores = self.teacher.submit(requests, None if needs_all else top_k, device)
        with self.clock("student"):
            prompts = prompts.select([rollout.index for rollout in kept])
            hidden = forced_states(self.student, prompts, [rollout.tokens for rollout in kept])
        with self.clock("teacher"):
            teacher_scores = pending_scores(self.stop_requested)
        if teacher_scores is None:
            return _no_loss(hidden.sum() + self.student.head.sum(), metrics, interrupted=True)
        if isinstance(teacher_scores, TeacherStates) and teacher_scores.cached is not None:
            metrics.mean("teacher/cached_share", teacher_scores.cached, len(requests))
        with self.clock("teacher"):
            teacher_scores = self.tokens.scores(teacher_scores, kept, alignments)
        with self.clock("student"):
            after_accepted = self._after_accepted_token(kept, alignments, teacher_scores, metrics)
            compared = to_device(self._compared_tokens(kept, alignments), device)
            student = StudentStates(
                hidden,
                self.student.head,
                generated=compared.masked_fill(~after_accepted, -1),
                top=student_top,
                top_hidden=top_states,
                sparse_head_gradient=self.student.head is self.student.model.get_input_embeddings().weight,
            )
            vocabularies = self.tokens.vocabularies_on(device)
            result = divergence_from_states(student, teacher_scores, self.objective, vocabularies)
            add_positions(metrics, result, top_k)
            total, count = result.per_position.sum(), result.valid.sum()
            if self.settings.unpaired == "segments":
                tokens = tokens_of_segments([rollout.tokens for rollout in kept], alignments, segments)
                divergences = divergence_of_segments(
                    (hidden, self.student.head),
                    teacher_scores,
                    tokens,
                    self.objective,
                    vocabularies,
                )
                counted = after_accepted[to_device(tokens[0].first_positions, device)]
                divergences = divergences.masked_fill(~counted, 0.0)
                add_segments(metrics, alignments, divergences, counted)
                total, count = total + divergences.sum(), count + counted.sum()
        return StageLoss(total, count, metrics)

    @property
    def recognizers(self) -> list[Recognizer | Teacher]:
        return [self.student, self.teacher]

    @property
    def prefetch_steps(self) -> int:
        return self.rollouts.prefetch_steps

    def prefetch_rollouts(self, micro_batches: Sequence[MicroBatch]) -> None:
        with self.clock("rollout"), unsharded_weights(self):
            self.rollouts.prefetch(
                [(self._augmented(self.nonempty(examples), seed), seed) for examples, seed in micro_batches]
            )

    def pending_rollouts(self) -> dict[str, Any]:
        return self.rollouts.pending()

    def take_new_rollouts(self) -> dict[str, Any]:
        return self.rollouts.cache.take_new()

    def add_rollouts(self, rollouts: Mapping[str, Any]) -> None:
        self.rollouts.cache.update(rollouts)

    def on_weights_changed(self) -> None:
        if self.rollouts.engine is not None:
            self.rollouts.engine.on_weights_changed()

    def on_step_end(self) -> None:
        self.rollouts.on_step_end()

    def check_metrics(self, metrics: Metrics) -> str | None:
        """Check how many tokens the teacher can score, and whether more and more rollouts loop or reach the cap.

        Raises:
            InputError: the share of paired tokens is below `min_paired_share`.
        """
        paired, tokens = metrics.sum_and_weight("teacher/paired_share")
        self.pairing_watch.step(int(paired), int(tokens))
        runaway, rollouts = metrics.sum_and_weight("rollout/runaway")
        return self.loop_watch.step(int(runaway), int(rollouts))

    def extra_state(self) -> dict[str, Tensor]:
        return self.rollouts.cache.tensors() | {
            "pairing": self.pairing_watch.tensor(),
            "loops": self.loop_watch.tensor(),
        }

    def load_extra_state(self, extra_state: Mapping[str, Tensor], pending_rollouts: Mapping[str, Any]) -> None:
        self.rollouts.cache.restore(extra_state)
        self.rollouts.load_pending(pending_rollouts)
        self.pairing_watch.restore(extra_state["pairing"])
        self.loop_watch.restore(extra_state["loops"])
        self.on_weights_changed()

    def unpaired_tokens(self) -> Counter[str]:
        texts: Counter[str] = Counter()
        for token, count in self._unpaired.items():
            texts[self.student.transcript_text(torch.tensor([token]))] += count
        return texts

    def close(self) -> None:
        self.teacher.close()
        if self.rollouts.engine is not None:
            self.rollouts.engine.close()

    def _augmented(self, examples: Sequence[Example], seed: int) -> list[Example]:
        """The micro-batch with augmented features. Random numbers are the same for both models."""
        recognizers = [self.student, self.teacher.recognizer]
        joined = join_utterances(examples, self.augmentation, seed, recognizers)
        return augment_features(joined, self.augmentation, seed, recognizers)

    def _count_unpaired(self, kept: Sequence[Rollout], alignments: Sequence[Alignment]) -> None:
        for rollout, alignment in zip(kept, alignments, strict=True):
            self._unpaired.update(rollout.tokens[alignment.teacher_positions.cpu() < 0].tolist())

    def _segments(self, kept: Sequence[Rollout], alignments: Sequence[Alignment]) -> list[list[Segment]]:
        """The segments of each rollout that count in the loss."""
        if self.settings.unpaired != "segments":
            return [[] for _ in kept]
        allowed = self.student.allowed_tokens, self.teacher.allowed_tokens
        return [
            comparable_segments(alignment, rollout.tokens.cpu(), self._included(rollout), *allowed)
            for rollout, alignment in zip(kept, alignments, strict=True)
        ]

    def _compared_tokens(self, kept: Sequence[Rollout], alignments: Sequence[Alignment]) -> Tensor:
        """The rollout tokens, LongTensor [N]; −1 where no teacher position is paired or a loop is masked."""
        compared = torch.cat([alignment.teacher_positions for alignment in alignments]) >= 0
        compared = compared & torch.cat([self._included(rollout) for rollout in kept])
        return torch.cat([rollout.tokens for rollout in kept]).masked_fill(~compared, -1)

    def _after_accepted_token(
        self, kept: Sequence[Rollout], alignments: Sequence[Alignment], scores: TeacherScores, metrics: Metrics
    ) -> Tensor:
        """Whether the teacher accepts the token before each position, bool `[N]`."""
        positions = torch.cat([alignment.teacher_positions for alignment in alignments])
        if self.settings.rejected_below == 0:
            return torch.ones(len(positions), dtype=torch.bool, device=self.student.device)
        log_probs = self.tokens.log_probs_of_rollouts(scores, kept, alignments)
        paired = to_device(positions >= 0, log_probs.device)
        rejected = paired & (log_probs < math.log(self.settings.rejected_below))
        metrics.mean("teacher/rejected_share", rejected.sum(), paired.sum())
        return after_accepted_token(rejected, [len(rollout.tokens) for rollout in kept])

    def _included(self, rollout: Rollout) -> Tensor:
        """The positions of a rollout that are in no masked loop, bool `[n]`."""
        return rollout.outside_loop() if self.settings.looping == "mask" else torch.ones(len(rollout.tokens)).bool()

    @torch.no_grad()
    def _top_at_rollout(self, kept: Sequence[Rollout], prompts: Prompts) -> tuple[TopTokens, Tensor | None]:
        """K^S_t, found from the states of the rollout.

        A rollout without states (a reference text, or one by vLLM) is read once more with the current weights.

        Returns:
            The top-k, and the states that they were found from. The states are None in float32: the loss's own states
            are used instead, which differ only by rounding.
        """
        states_of = [rollout.states for rollout in kept]
        missing = [number for number, states in enumerate(states_of) if states is None]
        if missing:
            transcripts = [kept[number].tokens for number in missing]
            forced = forced_states(
                self.student, prompts.select([kept[number].index for number in missing]), transcripts
            )
            parts = forced.split([len(tokens) for tokens in transcripts])
            for number, states in zip(missing, parts, strict=True):
                states_of[number] = states
        states = torch.cat([states for states in states_of if states is not None])
        allowed, head = self.student.allowed_tokens, self.student.head.detach()
        top = top_tokens(states, head, allowed, self.objective.top_k, torch.float32)
        return top, states if product_dtype(states) in (torch.bfloat16, torch.float16) else None


def _no_loss(value: Tensor, metrics: Metrics, *, interrupted: bool = False) -> StageLoss:
    """A loss of 0 that counts no positions. Its backward pass still runs through the graph of `value`."""
    return StageLoss(value * 0.0, torch.zeros((), dtype=torch.long, device=value.device), metrics, interrupted)
