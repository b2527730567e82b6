"""The divergence at segments, which the two models write in different tokens (docs/objective.md, "Segments").

Source: arXiv 2503.20083 (approximate likelihood matching), without its debiasing and its temperature. In: segments, and
both models' states or scores at their tokens. Out: one divergence per segment. `alignment.py` finds the segments.

A token's probability p is handled as its log-odds z = log p − log(1 − p). Both log p and log(1 − p) follow from z
without cancellation, so values and gradients stay finite and exact for p near 0 and near 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from arkasr.distill.alignment import Alignment, Segment
from arkasr.distill.chunked import CHUNK_POSITIONS
from arkasr.distill.divergence import divergence_of
from arkasr.distill.options import Objective
from arkasr.distill.support import NO_PROBABILITY, mask_disallowed
from arkasr.distill.vocabularies import Vocabularies
from arkasr.recognizers.device import to_device
from arkasr.recognizers.head_scores import vocabulary_scores
from arkasr.recognizers.precision import working_dtype
from arkasr.teacher.teacher import SparseScores, TeacherScores, TeacherStates


@dataclass(frozen=True, slots=True)
class SegmentTokens:
    """One model's tokens of G segments, M in all.

    Attributes:
        positions: LongTensor [M], counted over all transcripts.
        ids: LongTensor [M].
        lengths: the number of tokens of each segment; on the host, so that nothing waits for the device.
    """

    positions: Tensor
    ids: Tensor
    lengths: list[int]

    @classmethod
    def of(cls, transcripts: Sequence[Tensor], segments: Sequence[Sequence[range]]) -> "SegmentTokens":
        """The tokens at the positions of segments, transcript after transcript.

        Args:
            transcripts: LongTensors [n_b].
            segments: of every transcript.
        """
        lengths = [len(segment) for found in segments for segment in found]
        offsets = [0]
        for transcript in transcripts:
            offsets.append(offsets[-1] + len(transcript))
        positions = torch.tensor(
            [
                offset + position
                for offset, found in zip(offsets, segments, strict=False)
                for segment in found
                for position in segment
            ],
            dtype=torch.long,
        )
        return cls(positions, torch.cat([transcript.cpu() for transcript in transcripts])[positions], lengths)

    @property
    def first_positions(self) -> Tensor:
        """The position of the first token of each segment, LongTensor [G]."""
        starts = torch.tensor([0, *self.lengths[:-1]], dtype=torch.long).cumsum(0)
        return self.positions[starts[: len(self.lengths)]]

    def to(self, device: torch.device) -> "SegmentTokens":
        """The same tokens on another device."""
        return SegmentTokens(to_device(self.positions, device), to_device(self.ids, device), self.lengths)


def comparable_segments(
    alignment: Alignment, student_ids: Tensor, included: Tensor, student_allowed: Tensor, teacher_allowed: Tensor
) -> list[Segment]:
    """The segments of a transcript that count in the loss.

    Args:
        alignment: of the transcript.
        student_ids: LongTensor [n].
        included: BoolTensor [n], False at the positions of a masked loop.
        student_allowed: A_S, BoolTensor [V_S]. The model gives other tokens no probability.
        teacher_allowed: A_T, BoolTensor [V_T].
    """
    counts_in_student = (included & student_allowed[student_ids]).tolist()
    counts_in_teacher = teacher_allowed[alignment.teacher_ids].tolist()
    return [
        segment
        for segment in alignment.segments
        if all(counts_in_student[position] for position in segment.student)
        and all(counts_in_teacher[position] for position in segment.teacher)
    ]


def tokens_of_segments(
    transcripts: Sequence[Tensor], alignments: Sequence[Alignment], segments: Sequence[Sequence[Segment]]
) -> tuple[SegmentTokens, SegmentTokens]:
    """The student's and the teacher's tokens of the segments.

    Args:
        transcripts: in student ids, LongTensors [n_b].
        alignments: of the transcripts.
        segments: of every transcript.
    """
    student = [[segment.student for segment in found] for found in segments]
    teacher = [[segment.teacher for segment in found] for found in segments]
    teacher_ids = [alignment.teacher_ids for alignment in alignments]
    return SegmentTokens.of(transcripts, student), SegmentTokens.of(teacher_ids, teacher)


def divergence_of_segments(
    student: tuple[Tensor, Tensor],
    teacher: TeacherScores,
    tokens: tuple[SegmentTokens, SegmentTokens],
    objective: Objective,
    vocabularies: Vocabularies,
) -> Tensor:
    """The divergence [G] between the two models' distributions over {the segment's tokens, anything else}.

    Args:
        student: the states [N, H_S] at all positions and the head [V_S, H_S]; gradient flows into both.
        teacher: its scores include those of the tokens of the segments.
        tokens: of `tokens_of_segments`, with G segments.
        objective: its divergence and β. Its temperature must be 1.
        vocabularies: A_S and A_T.
    """
    hidden, head = student
    if not tokens[0].lengths:
        return hidden.new_zeros(0, dtype=working_dtype(hidden))
    student_tokens, teacher_tokens = (model_tokens.to(hidden.device) for model_tokens in tokens)
    states = hidden.index_select(0, student_tokens.positions)
    q = segment_log_probs(log_odds(states, head, student_tokens.ids, vocabularies.student_allowed), student_tokens)
    with torch.no_grad():
        p = segment_log_probs(_teacher_log_odds(teacher, teacher_tokens, vocabularies), teacher_tokens)
    valid = torch.ones(len(q), dtype=torch.bool, device=q.device)
    return divergence_of(p.to(q.dtype), q, valid, objective.divergence, objective.beta)


def segment_log_probs(token_log_odds: Tensor, tokens: SegmentTokens) -> Tensor:
    """Log-probabilities [G, 2] that a model writes all tokens of a segment, and that it does not.

    A model leaves a segment at some token: it writes the tokens before it, then a different one. The second
    log-probability is the logsumexp over all tokens at which it can leave.

    Args:
        token_log_odds: z [M].
        tokens: of the segments.
    """
    # Padding has the probability 1: nothing leaves there.
    z = pad_sequence(token_log_odds.split(tokens.lengths), batch_first=True, padding_value=math.inf)
    log_probs = F.logsigmoid(z)
    log_probs_before = F.pad(log_probs.cumsum(dim=1)[:, :-1], (1, 0))
    log_probs_of_leaving = log_probs_before + F.logsigmoid(-z)
    return torch.stack((log_probs.sum(dim=1), log_probs_of_leaving.logsumexp(dim=1)), dim=1)


def log_odds(hidden: Tensor, head: Tensor, ids: Tensor, allowed: Tensor | None) -> Tensor:
    """The log-odds [M] of tokens among all allowed ones, with gradients of `hidden` and `head`.

    Only the logits of a few positions are in memory at a time; the backward pass computes them again.

    Args:
        hidden: [M, H], rounded to autocast's dtype if autocast is on.
        head: [V, H], rounded in the same way.
        ids: LongTensor [M], allowed tokens.
        allowed: BoolTensor [V], at least two tokens; None = all.
    """

    def compare(states: Tensor, own: Tensor, head: Tensor) -> Tensor:
        logits = vocabulary_scores(states, head)
        scores = mask_disallowed(logits, allowed, logits.dtype)
        others = scores.scatter(1, own[:, None], NO_PROBABILITY)
        return scores.gather(1, own[:, None])[:, 0] - others.logsumexp(dim=1)

    chunks = zip(hidden.split(CHUNK_POSITIONS), ids.split(CHUNK_POSITIONS), strict=True)
    return torch.cat([checkpoint(compare, states, own, head, use_reentrant=False) for states, own in chunks])


def log_odds_of(log_probs: Tensor) -> Tensor:
    """The log-odds of tokens from their log-probabilities. A probability above 1 − ε becomes 1 − ε."""
    below_zero = log_probs.clamp(max=-torch.finfo(log_probs.dtype).eps)
    return below_zero - log1mexp(below_zero)


def log1mexp(values: Tensor) -> Tensor:
    """log(1 − exp(x)) for x < 0, exact near 0 and far below it (Mächler 2012, the R package Rmpfr)."""
    return torch.where(values > -math.log(2), (-torch.expm1(values)).log(), torch.log1p(-values.exp()))


def _teacher_log_odds(teacher: TeacherScores, tokens: SegmentTokens, vocabularies: Vocabularies) -> Tensor:
    if isinstance(teacher, SparseScores):
        assert teacher.forced_log_probs is not None
        return log_odds_of(teacher.forced_log_probs)
    assert isinstance(teacher, TeacherStates)
    assert teacher.forced_hidden is not None
    return log_odds(teacher.forced_hidden, teacher.head, tokens.ids, vocabularies.teacher_allowed)
