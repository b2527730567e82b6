"""On-policy distillation: the student writes, the teacher says at each token what it would have written.

One micro-batch of algorithm 1 (arXiv 2605.28139, section 3): rollout, teacher forcing, union support, divergence. The
mathematics is in `arkasr.distill`; this file only brings the two models and the utterances together.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from arkasr.data.examples import Example
from arkasr.distill.alignment import Alignment, map_transcript, retokenise
from arkasr.distill.diagnostics import rollout_statistics, support_diagnostics
from arkasr.distill.objective import UnionTopkKL, union_topk_kl
from arkasr.distill.rollout import Rollout, Rollouts, roll_out
from arkasr.errors import InputError
from arkasr.model.recognizer import Prompts, Recognizer
from arkasr.model.scoring import forced_logits
from arkasr.teacher.vocabulary import map_vocabularies
from arkasr.train.metrics import Metrics
from arkasr.train.settings import ObjectiveSettings
from arkasr.train.stage import Stage, StageLoss

# One odd rollout says nothing about two vocabularies.
JUDGED_FROM_TOKENS = 200


class DistillationStage(Stage):
    """Union top-k divergence from the teacher along the student's own transcripts, per valid position.

    Args:
        student: learns.
        teacher: scores; its weights do not change.
        settings: the objective.
    """

    def __init__(self, student: Recognizer, teacher: Recognizer, settings: ObjectiveSettings) -> None:
        super().__init__(student)
        # A plain attribute of a non-module keeps the teacher out of parameters() and of checkpoints.
        self.teacher = teacher
        teacher.model.eval().requires_grad_(False)
        self.clock.watch(teacher.audio_modules, "encode")
        self.settings = settings
        self._paired = self._written = 0
        self.vocabulary = map_vocabularies(
            student.tokenizer,
            teacher.tokenizer,
            student_stop=student.stop_token_id,
            teacher_stop=teacher.stop_token_id,
            student_vocab_size=student.vocab_size,
            teacher_vocab_size=teacher.vocab_size,
        )

    def forward(self, examples: Sequence[Example], seed: int) -> StageLoss:
        """Compare student and teacher on what the student writes for a micro-batch.

        Raises:
            InputError: fewer rollout tokens than `min_mapped_share` can be scored by the teacher.
        """
        device = self.student.device
        features = [example.features[self.student.listener] for example in examples]
        prompts = self.student.prompts(features, [example.utterance.language for example in examples]).to(device)
        with self.clock("rollout"):
            rollouts = self._roll_out(prompts, [example.utterance.text for example in examples])
        metrics = self._rollout_metrics(rollouts)
        if not rollouts.kept:
            nothing = sum(parameter.sum() for parameter in self.model.parameters()) * 0.0
            return StageLoss(nothing, torch.zeros((), dtype=torch.long, device=device), metrics)

        transcripts = [rollout.tokens for rollout in rollouts.kept]
        with self.clock("teacher"):
            alignments = [self._align(transcript) for transcript in transcripts]
            heard = [examples[rollout.clip] for rollout in rollouts.kept]
            teacher_logits, paired = self._teacher_logits(heard, alignments)
            self._count_pairing(metrics, transcripts, alignments)
        with self.clock("student"):
            prompts = prompts.select([rollout.clip for rollout in rollouts.kept])
            student_logits = forced_logits(self.model, prompts, transcripts, self.student.tokenizer.pad_token_id)
            result = union_topk_kl(
                student_logits,
                teacher_logits,
                top_k=self.settings.top_k,
                temperature=self.settings.temperature,
                teacher_to_student=self.vocabulary.teacher_to_student.to(device),
                student_allowed=self.student.allowed_tokens.to(device),
                teacher_allowed=self.teacher.allowed_tokens.to(device),
                student_support=self._student_support(rollouts.kept, student_logits.detach()),
                generated=torch.cat(transcripts).to(device).masked_fill(~paired, -1),
                divergence=self.settings.divergence,
                support=self.settings.support,
                tail=self.settings.tail,
                beta=self.settings.beta,
                upstream_scores=self.settings.upstream_scores,
            )
            self._count_positions(metrics, student_logits, teacher_logits, result)
        return StageLoss(result.per_position.sum(), result.valid.sum(), metrics)

    @torch.no_grad()
    def _roll_out(self, prompts: Prompts, references: list[str | None]) -> Rollouts:
        training = self.model.training
        self.model.eval()
        rollouts = roll_out(
            self.student,
            prompts,
            references,
            max_new_tokens=self.settings.max_new_tokens,
            top_k=self.settings.top_k,
        )
        self.model.train(training)
        return rollouts

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

    @torch.no_grad()
    def _teacher_logits(self, heard: Sequence[Example], alignments: Sequence[Alignment]) -> tuple[Tensor, Tensor]:
        """Teacher logits `[N, V_T]` row by row for the student's positions, and which rows have one, bool `[N]`."""
        device = self.student.device
        features = [example.features[self.teacher.listener] for example in heard]
        prompts = self.teacher.prompts(features, [example.utterance.language for example in heard]).to(device)
        forced = [alignment.teacher_ids for alignment in alignments]
        logits = forced_logits(self.teacher.model, prompts, forced, self.teacher.tokenizer.pad_token_id)
        rows, first = [], 0
        for alignment in alignments:
            positions = alignment.teacher_positions
            rows.append(torch.where(positions >= 0, positions + first, -1))
            first += len(alignment.teacher_ids)
        row = torch.cat(rows).to(device)
        return logits[row.clamp(min=0)], row >= 0

    def _student_support(self, kept: Sequence[Rollout], student_logits: Tensor) -> Tensor:
        """The student's top-k at rollout time `[N, k]`; for references, of this pass, since nothing was rolled out."""
        lengths = [len(rollout.tokens) for rollout in kept]
        allowed = self.student.allowed_tokens.to(student_logits.device)
        top_k = min(self.settings.top_k, student_logits.shape[1])
        supports = []
        for rollout, logits in zip(kept, student_logits.split(lengths), strict=True):
            if rollout.top_ids is not None:
                supports.append(rollout.top_ids.to(student_logits.device))
            else:
                supports.append(logits.masked_fill(~allowed, -torch.inf).topk(top_k).indices)
        return torch.cat(supports)

    def _rollout_metrics(self, rollouts: Rollouts) -> Metrics:
        metrics = Metrics()
        statistics = rollout_statistics(rollouts.written, rollouts.stopped, self.settings.max_new_tokens)
        batch = len(rollouts.written)
        for name, values in statistics.items():
            metrics.mean(f"rollout/{name}", values.float().sum(), batch)
        metrics.mean("rollout/fallback_rate", rollouts.fallbacks, batch)
        metrics.mean("rollout/skipped_rate", rollouts.skipped, batch)
        return metrics

    def _count_pairing(self, metrics: Metrics, transcripts: Sequence[Tensor], alignments: Sequence[Alignment]) -> None:
        """Log how well the teacher can answer, and stop where it cannot for too many of all tokens so far."""
        tokens = torch.cat(list(transcripts))
        positions = torch.cat([alignment.teacher_positions for alignment in alignments])
        metrics.mean("teacher/mapped_share", (self.vocabulary.student_to_teacher[tokens] >= 0).sum(), len(tokens))
        for transcript, alignment in zip(transcripts, alignments, strict=True):
            exact = map_transcript(transcript, self.vocabulary) is not None
            metrics.mean("teacher/retokenised_rate", not exact, 1)
            if not exact:
                unpaired = (alignment.teacher_positions < 0).sum()
                metrics.mean("teacher/retokenisation_mismatch_rate", unpaired, len(transcript))
        self._paired += int((positions >= 0).sum())
        self._written += len(positions)
        share = self._paired / self._written
        if self._written >= JUDGED_FROM_TOKENS and share < self.settings.min_mapped_share:
            raise InputError(
                f"objective.min_mapped_share: the teacher can score {share:.0%} of the rollout tokens, less than the "
                f"{self.settings.min_mapped_share:.0%} asked for; use a teacher with a nearer vocabulary, or lower it"
            )

    def _count_positions(
        self, metrics: Metrics, student_logits: Tensor, teacher_logits: Tensor, result: UnionTopkKL
    ) -> None:
        valid = result.valid
        metrics.mean("support/valid_share", valid.sum(), len(valid))
        diagnostics = support_diagnostics(
            student_logits.detach(),
            teacher_logits,
            result,
            top_k=self.settings.top_k,
            student_allowed=self.student.allowed_tokens.to(valid.device),
            teacher_allowed=self.teacher.allowed_tokens.to(valid.device),
        )
        sizes = diagnostics.pop("vuss")[valid]
        metrics.mean("support/vuss_mean", sizes.sum(), len(sizes))
        if len(sizes):
            metrics.minimum("support/vuss_min", sizes.min())
            metrics.maximum("support/vuss_max", sizes.max())
        shared = valid & (diagnostics.pop("overlap") > 0)
        for name, values in diagnostics.items():
            defined = shared if name == "overlap_advantage" else valid
            metrics.mean(f"support/{name}", values[defined].sum(), defined.sum())
