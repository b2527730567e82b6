"""Which teacher position answers for which student position (docs/objective.md, "When ids do not all map").

In: a transcript in student ids and both tokenizers. Out: the ids to force the teacher on, and where each
student position is found among them. Knows nothing of scores, nor of the prompt around the transcript.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from arkasr.distill.support import look_up
from arkasr.errors import InputError
from arkasr.teacher.vocabulary import VocabularyMap


@dataclass(frozen=True, slots=True)
class Alignment:
    """A transcript as the teacher writes it.

    Attributes:
        teacher_ids: LongTensor [m], the teacher's tokens of the transcript.
        teacher_positions: LongTensor [n], for each student position the teacher position of the same bytes,
            −1 = none.
    """

    teacher_ids: Tensor
    teacher_positions: Tensor

    @property
    def mismatch_rate(self) -> float:
        """Share of the student's positions that no teacher position answers for."""
        return (self.teacher_positions < 0).float().mean().item() if len(self.teacher_positions) else 0.0


def map_transcript(ids: Tensor, vocabulary: VocabularyMap) -> Tensor | None:
    """The exact route: m⁻¹(y), token in, token out.

    Args:
        ids: LongTensor [n], student ids.
        vocabulary: the map between the two vocabularies.

    Returns:
        LongTensor [n] of teacher ids, position by position; None when some id has no counterpart.
    """
    teacher_ids = look_up(vocabulary.student_to_teacher, ids)
    return None if bool((teacher_ids < 0).any()) else teacher_ids


def retokenise(
    ids: Tensor,
    student_tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    *,
    student_stop: int,
    teacher_stop: int,
) -> Alignment:
    """The other route: the teacher tokenises the decoded text, and positions are paired by byte offset.

    Where the two texts part (the student left a character unfinished, or the teacher's tokenizer normalises),
    no later position is paired: from there on the teacher has read something else.

    Args:
        ids: LongTensor [n], student ids, the final stop token included where the student emitted it.
        student_tokenizer: byte-level BPE.
        teacher_tokenizer: byte-level BPE.
        student_stop: id of the student's stop token.
        teacher_stop: id of the teacher's stop token, put at the end where the student put its own.

    Raises:
        InputError: a tokenizer is not byte-level.
    """
    student_ids = ids.tolist()
    student_text = b"".join(token_bytes(student_tokenizer, student_ids))
    text = student_text.decode("utf-8", errors="replace")
    teacher_ids = teacher_tokenizer.encode(text, add_special_tokens=False)
    if student_ids and student_ids[-1] == student_stop:
        teacher_ids.append(teacher_stop)
    teacher_text = b"".join(token_bytes(teacher_tokenizer, teacher_ids))

    student_spans = byte_spans(student_tokenizer, student_ids)
    positions = align_by_bytes(student_spans, byte_spans(teacher_tokenizer, teacher_ids))
    byte_pairs = enumerate(zip(student_text, teacher_text, strict=False))
    parted_at = next((place for place, (ours, theirs) in byte_pairs if ours != theirs), len(student_text))
    ends = torch.tensor([end for _, end in student_spans], dtype=torch.long)
    positions[ends > parted_at] = -1
    return Alignment(torch.tensor(teacher_ids, dtype=torch.long, device=ids.device), positions.to(ids.device))


def byte_spans(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[tuple[int, int]]:
    """The bytes (start, end) of the decoded text that each token covers; a special token covers none.

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
    """LongTensor [n_student]: the teacher position whose token covers the same bytes, −1 where there is none.

    Tokens that cover no bytes, the two stop tokens, meet when they stand at the same byte.
    """
    position_of = {span: position for position, span in enumerate(teacher_spans)}
    return torch.tensor([position_of.get(span, -1) for span in student_spans], dtype=torch.long)


def token_bytes(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[bytes]:
    """What each token adds to the decoded text, as bytes: one token may be a piece of a UTF-8 character.

    Raises:
        InputError: the tokenizer is not byte-level.
    """
    added = tokenizer.added_tokens_decoder
    pieces = []
    for token_id, token in zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True):
        if token_id in added:
            pieces.append(b"" if added[token_id].special else added[token_id].content.encode())
        elif token is not None and _BYTE_OF.keys() >= set(token):
            pieces.append(bytes(_BYTE_OF[character] for character in token))
        else:
            raise InputError(f"token {token_id} ({token!r}) is not of a byte-level BPE; use one on both sides")
    return pieces


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE writes a byte as itself if printable, else as the next character from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    stand_ins = {chr(0x100 + place): byte for place, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | stand_ins


_BYTE_OF = _byte_alphabet()
