"""Pairs student positions with teacher positions (docs/objective.md, "When some ids have no counterpart").

In: a transcript in student ids, and both tokenizers. Out: the ids that the teacher is forced on, the teacher position
of each student position, and the segments between paired positions. Scores and the prompt around the transcript are
left to others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from arkasr.distill.pieces import Pieces
from arkasr.distill.vocabularies import map_ids
from arkasr.recognizers.plain_text import plain_ids
from arkasr.recognizers.text import Prefix, no_prefix
from arkasr.recognizers.token_bytes import token_bytes


@dataclass(frozen=True, slots=True)
class Segment:
    """Unpaired tokens of both models that cover the same bytes.

    Inside it, no token of one model ends at the same byte as a token of the other.

    Attributes:
        student: the student positions, at least one.
        teacher: the teacher positions, at least one.
    """

    student: range
    teacher: range


@dataclass(frozen=True, slots=True)
class Alignment:
    """A transcript in teacher tokens.

    Attributes:
        teacher_ids: LongTensor [m], the teacher's tokens.
        teacher_positions: LongTensor [n], the teacher position of each student position, −1 = none.
        retokenised: whether the teacher's tokenizer tokenised the text, because some id has no counterpart or only one
            of the models begins the text with a blank.
        segments: what the teacher can compare besides the paired positions, in the order of the text.
        depths: LongTensor [n], with `pieces`: how many pieces of the same teacher token come before, −1 = not paired.
        added: with `pieces`: 1 if only the teacher writes a blank before the text, −1 if only the student does.
    """

    teacher_ids: Tensor
    teacher_positions: Tensor
    retokenised: bool
    segments: tuple[Segment, ...] = ()
    depths: Tensor | None = None
    added: int = 0


def align(
    ids: Tensor,
    student_to_teacher: Tensor,
    student_tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    *,
    student_stop: int,
    teacher_stop: int,
    student_prefix: Prefix = no_prefix,
    teacher_prefix: Prefix = no_prefix,
    longest_transcript: int | None = None,
    pieces: Pieces | None = None,
) -> Alignment:
    """Map every id, m⁻¹(y), if all have a counterpart; otherwise retokenise the text and pair positions by byte offset.

    If only one of the models begins the text with a blank, the text is always retokenised, with the blank added or
    removed. The token with the blank is then not paired, because the other model's best tokens there have no blank. Its
    segment includes the blank. Where the blank is a token of its own, the first token after it is paired.

    After retokenising, no position is paired and no segment ends after the first byte in which the two texts differ:
    from there on the teacher reads another text. The texts differ where the student left a character unfinished or the
    teacher's tokenizer normalises.

    Args:
        ids: LongTensor [n], student ids, with the final stop token if the student emitted it.
        student_to_teacher: m⁻¹, LongTensor [V_S], −1 = no counterpart.
        student_tokenizer: byte-level BPE.
        teacher_tokenizer: byte-level BPE.
        student_stop: id of the student's stop token.
        teacher_stop: id of the teacher's stop token, appended if the student emitted its own.
        student_prefix: what the student's family writes before a text.
        teacher_prefix: what the teacher's family writes before a text.
        longest_transcript: the most tokens that the teacher can read; later positions are neither paired nor in a
            segment. None = no limit.
        pieces: pair positions inside a token of the teacher, too. The text is then always retokenised, and there are no
            segments.

    Raises:
        InputError: a tokenizer is not byte-level.
    """
    mapped_ids = map_ids(student_to_teacher, ids)
    all_mapped = bool((mapped_ids >= 0).all())
    mapped = _read_up_to(longest_transcript, Alignment(mapped_ids, torch.arange(len(ids)), retokenised=False))
    if all_mapped and student_prefix is teacher_prefix and pieces is None:
        return mapped
    student_ids = ids.tolist()
    student_bytes = b"".join(token_bytes(student_tokenizer, student_ids))
    text = student_bytes.decode("utf-8", errors="replace")
    teacher_text = _with_prefix_of_teacher(text, student_prefix, teacher_prefix)
    if all_mapped and teacher_text == text and pieces is None:
        return mapped
    teacher_ids = plain_ids(teacher_tokenizer, teacher_text)
    if student_ids and student_ids[-1] == student_stop:
        teacher_ids.append(teacher_stop)
    teacher_bytes = b"".join(token_bytes(teacher_tokenizer, teacher_ids))

    # Bytes are counted in the teacher's text.
    added = len(teacher_text) - len(text)
    student_spans = [(start + added, end + added) for start, end in byte_spans(student_tokenizer, student_ids)]
    teacher_spans = byte_spans(teacher_tokenizer, teacher_ids)
    same_until = max(added, 0) + _common_length(student_bytes[max(-added, 0) :], teacher_bytes[max(added, 0) :])
    forced_ids = torch.tensor(teacher_ids, dtype=torch.long, device=ids.device)
    if pieces is not None:
        found = pieces.positions(student_ids, teacher_ids, (student_spans, teacher_spans), same_until)
        positions, depths = (part.to(ids.device) for part in found)
        alignment = Alignment(forced_ids, positions, retokenised=True, depths=depths, added=added)
        return _read_up_to(longest_transcript, alignment)
    positions = align_by_bytes(student_spans, teacher_spans)
    positions[torch.tensor([end for _, end in student_spans], dtype=torch.long) > same_until] = -1
    segments = find_segments(positions.tolist(), student_spans, teacher_spans, same_until)
    alignment = Alignment(forced_ids, positions.to(ids.device), retokenised=True, segments=segments)
    return _read_up_to(longest_transcript, alignment)


def _with_prefix_of_teacher(text: str, student_prefix: Prefix, teacher_prefix: Prefix) -> str:
    """The student's text as the teacher writes it."""
    bare = text.removeprefix(" ")
    if student_prefix(bare) == teacher_prefix(bare):
        return text
    return teacher_prefix(bare) + bare


def _read_up_to(longest_transcript: int | None, alignment: Alignment) -> Alignment:
    if longest_transcript is None or len(alignment.teacher_ids) <= longest_transcript:
        return alignment
    positions = alignment.teacher_positions
    return replace(
        alignment,
        teacher_ids=alignment.teacher_ids[:longest_transcript],
        teacher_positions=positions.masked_fill(positions >= longest_transcript, -1),
        segments=tuple(segment for segment in alignment.segments if segment.teacher.stop <= longest_transcript),
    )


def _common_length(ours: bytes, theirs: bytes) -> float:
    """Number of bytes before the first that differs; infinite if none does."""
    differing = (offset for offset, (our, their) in enumerate(zip(ours, theirs, strict=False)) if our != their)
    return next(differing, math.inf)


def byte_spans(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[tuple[int, int]]:
    """The byte range (start, end) of the decoded text that each token covers. A special token covers none.

    Raises:
        InputError: the tokenizer is not byte-level.
    """
    spans = []
    start = 0
    for piece in token_bytes(tokenizer, ids):
        spans.append((start, start + len(piece)))
        start += len(piece)
    return spans


def align_by_bytes(student_spans: Sequence[tuple[int, int]], teacher_spans: Sequence[tuple[int, int]]) -> Tensor:
    """LongTensor [n]: the teacher position whose token covers the same bytes, −1 where there is none.

    A stop token covers no bytes. The two stop tokens are paired if they are at the same byte.
    """
    position_of = {span: position for position, span in enumerate(teacher_spans)}
    return torch.tensor([position_of.get(span, -1) for span in student_spans], dtype=torch.long)


def find_segments(
    positions: Sequence[int],
    student_spans: Sequence[tuple[int, int]],
    teacher_spans: Sequence[tuple[int, int]],
    same_until: float,
) -> tuple[Segment, ...]:
    """The shortest stretches of unpaired positions that end at the same byte in both models.

    Each stretch starts where a pair or another stretch ends, or with the text. A blank that only one model writes
    before the text therefore belongs to the first stretch, unless it is a whole token and the next one is paired.

    Args:
        positions: the teacher position of each of n student positions, −1 = none.
        student_spans: the bytes of n student tokens, counted in the teacher's text.
        teacher_spans: the bytes of the teacher's tokens.
        same_until: number of bytes in which both texts are the same.
    """
    position_ending_at = {end: position for position, (start, end) in enumerate(teacher_spans) if start < end}
    segments = []
    student_start = teacher_start = 0
    for student_position, (start, end) in enumerate(student_spans):
        if end > same_until:
            break
        paired = positions[student_position]
        teacher_position = paired if paired >= 0 else position_ending_at.get(end, -1)
        if teacher_position < teacher_start or start == end:
            continue
        if paired < 0:
            student, teacher = range(student_start, student_position + 1), range(teacher_start, teacher_position + 1)
            segments.append(Segment(student, teacher))
        student_start, teacher_start = student_position + 1, teacher_position + 1
    return tuple(segments)
