"""The map between the student's and the teacher's vocabularies.

In: two tokenizers and the widths of the models' logits. Out: the partial map m between their ids (docs/objective.md).
Models and transcripts are left to others.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from arkasr.model.allowed import check_stop_token, tokens_within


@dataclass(frozen=True, slots=True)
class VocabularyMap:
    """The partial one-to-one map between teacher and student ids.

    Attributes:
        teacher_to_student: m, LongTensor `[V_T]`, −1 = unmapped.
        student_to_teacher: m⁻¹, LongTensor `[V_S]`, −1 = unmapped.
    """

    teacher_to_student: Tensor
    student_to_teacher: Tensor


def map_vocabularies(
    student_tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    *,
    student_stop: int,
    teacher_stop: int,
    student_vocab_size: int,
    teacher_vocab_size: int,
) -> VocabularyMap:
    """Map ids with equal token strings to each other. The stop tokens map to each other only.

    Args:
        student_tokenizer: the student's tokenizer.
        teacher_tokenizer: the teacher's tokenizer.
        student_stop: id of the student's stop token.
        teacher_stop: id of the teacher's stop token.
        student_vocab_size: V_S, width of the student's logits; ids without a token are unmapped.
        teacher_vocab_size: V_T, width of the teacher's logits.

    Raises:
        InputError: a stop token lies outside its model's logits.
    """
    check_stop_token(student_stop, student_vocab_size)
    check_stop_token(teacher_stop, teacher_vocab_size)
    student_ids = tokens_within(student_tokenizer, student_vocab_size)
    teacher_ids = tokens_within(teacher_tokenizer, teacher_vocab_size)
    pairs = [
        (teacher_ids[token], student_ids[token])
        for token in teacher_ids.keys() & student_ids.keys()
        if teacher_ids[token] != teacher_stop and student_ids[token] != student_stop
    ]
    pairs.append((teacher_stop, student_stop))
    from_teacher, from_student = torch.tensor(pairs, dtype=torch.long).T
    teacher_to_student = torch.full((teacher_vocab_size,), -1)
    student_to_teacher = torch.full((student_vocab_size,), -1)
    teacher_to_student[from_teacher] = from_student
    student_to_teacher[from_student] = from_teacher
    return VocabularyMap(teacher_to_student, student_to_teacher)
