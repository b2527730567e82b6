"""The student's rollouts in the teacher's tokens, and the teacher's scores for the student's tokens.

In: rollouts. Out: what the teacher is asked, and how the two vocabularies correspond. The loss is left to the stage.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from arkasr.data.examples import Example
from arkasr.distill.alignment import Alignment, Segment, align
from arkasr.distill.kept_rollouts import Rollout
from arkasr.distill.pieces import Pieces
from arkasr.distill.rejections import teacher_log_probs
from arkasr.distill.vocabularies import Vocabularies, map_ids
from arkasr.errors import InputError
from arkasr.recognizers.head import TopTokens
from arkasr.recognizers.recognizer import Recognizer
from arkasr.teacher.teacher import DenseScores, ScoringRequest, Teacher, TeacherScores, TeacherStates
from arkasr.teacher.vocabulary_mapping import map_vocabularies


class TeacherTokens:
    """The correspondence of two vocabularies.

    Attributes:
        student_to_teacher: m⁻¹, LongTensor [V_S], −1 = no counterpart.
        pieces: the teacher's tokens in the student's; None = only tokens with the same bytes are paired.

    Args:
        student: writes the rollouts.
        teacher: scores them.
        in_pieces: pair positions inside a token of the teacher, too.

    Raises:
        InputError: `in_pieces` with a served teacher, or a stop token has no logit.
    """

    def __init__(self, student: Recognizer, teacher: Teacher, *, in_pieces: bool) -> None:
        if in_pieces and not teacher.full_vocabulary:
            raise InputError(
                "objective.unpaired: `pieces` needs a teacher in the training process; use `segments`, or do not serve "
                "the teacher"
            )
        self._student, self._teacher = student, teacher
        stops = {"student_stop": student.stop_token_id, "teacher_stop": teacher.stop_token_id}
        sizes = {"student_vocab_size": student.vocab_size, "teacher_vocab_size": teacher.vocab_size}
        self._map = map_vocabularies(student.tokenizer, teacher.tokenizer, **stops, **sizes)
        self.student_to_teacher = self._map.student_to_teacher
        self.pieces = Pieces(student.tokenizer, teacher.tokenizer, **stops, **sizes) if in_pieces else None
        self._on_device: tuple[torch.device, Vocabularies] | None = None

    def align(self, transcript: Tensor) -> Alignment:
        """A rollout [n] in the teacher's tokens."""
        return align(
            transcript,
            self.student_to_teacher,
            self._student.tokenizer,
            self._teacher.tokenizer,
            student_stop=self._student.stop_token_id,
            teacher_stop=self._teacher.stop_token_id,
            student_prefix=self._student.transcript_prefix,
            teacher_prefix=self._teacher.recognizer.transcript_prefix,
            longest_transcript=self._teacher.recognizer.longest_transcript,
            pieces=self.pieces,
        )

    def requests(
        self,
        examples: Sequence[Example],
        kept: Sequence[Rollout],
        alignments: Sequence[Alignment],
        segments: Sequence[Sequence[Segment]],
        student_top: TopTokens,
    ) -> list[ScoringRequest]:
        """One request for each rollout. With `scores: named`, a served teacher is asked for K^S_t and y_t by id."""
        # A teacher that gives every score needs no list of ids, so the top-k are not copied from the device.
        no_ids = torch.empty((len(student_top.ids), 0), dtype=torch.long)
        top_ids = no_ids if self._teacher.full_vocabulary else student_top.ids.cpu()
        split = top_ids.split([len(rollout.tokens) for rollout in kept])
        return [
            ScoringRequest(
                examples[rollout.index].features[self._teacher.frontend],
                examples[rollout.index].utterance.language,
                alignment.teacher_ids,
                alignment.teacher_positions,
                map_ids(self.student_to_teacher, torch.cat((ids, rollout.tokens.cpu()[:, None]), dim=1)),
                torch.tensor([position for segment in found for position in segment.teacher], dtype=torch.long),
            )
            for rollout, alignment, found, ids in zip(kept, alignments, segments, split, strict=True)
        ]

    def scores(self, scores: TeacherScores, kept: Sequence[Rollout], alignments: Sequence[Alignment]) -> TeacherScores:
        """The teacher's scores as the objective takes them: with pieces, of the student's tokens."""
        if self.pieces is None:
            return scores
        assert isinstance(scores, TeacherStates)
        depths = [alignment.depths for alignment in alignments if alignment.depths is not None]
        # Only the first token of a transcript can have a blank that the other model does not write.
        added = [torch.where(found.teacher_positions == 0, found.added, 0) for found in alignments]
        log_probs = self.pieces.log_probs(
            (scores.hidden, scores.head),
            self._teacher.allowed_tokens,
            torch.cat([rollout.tokens for rollout in kept]).cpu(),
            torch.cat(depths).cpu(),
            torch.cat(added).cpu(),
        )
        return DenseScores(log_probs)

    def log_probs_of_rollouts(
        self, scores: TeacherScores, kept: Sequence[Rollout], alignments: Sequence[Alignment]
    ) -> Tensor:
        """The teacher's log-probabilities [N] of the rollouts' own tokens; undefined where not paired."""
        if self.pieces is not None:
            ids = torch.cat([rollout.tokens for rollout in kept])
        else:
            own = [alignment.teacher_ids[alignment.teacher_positions.clamp(min=0)] for alignment in alignments]
            ids = torch.cat(own)
        return teacher_log_probs(scores, ids, self._teacher.allowed_tokens)

    def vocabularies_on(self, device: torch.device) -> Vocabularies:
        """The vocabularies of student and scores on the device, copied once."""
        if self._on_device is None or self._on_device[0] != device:
            self._on_device = device, self._vocabularies(device)
        return self._on_device[1]

    def _vocabularies(self, device: torch.device) -> Vocabularies:
        allowed = self._student.allowed_tokens.to(device)
        if self.pieces is not None:
            size = self._student.vocab_size
            return Vocabularies.complete(size, size, device, student_allowed=allowed)
        return Vocabularies(
            self._map.teacher_to_student.to(device),
            self._map.student_to_teacher.to(device),
            allowed,
            self._teacher.allowed_tokens.to(device),
        )
