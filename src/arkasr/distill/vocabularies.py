"""How the token ids of teacher and student correspond (docs/objective.md, "Symbols").

In: id maps and allowed sets. Out: `Vocabularies`, complete and with checked shapes. Building the map from two
tokenizers is left to `arkasr.teacher.vocabulary_mapping`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Vocabularies:
    """The one-to-one map between the two vocabularies, and the tokens that may carry probability.

    Attributes:
        teacher_to_student: m, LongTensor [V_T], −1 = no counterpart.
        student_to_teacher: m⁻¹, LongTensor [V_S], −1 = no counterpart.
        student_allowed: A_S, BoolTensor [V_S]; None = all.
        teacher_allowed: A_T, BoolTensor [V_T]; None = all.
    """

    teacher_to_student: Tensor
    student_to_teacher: Tensor
    student_allowed: Tensor | None = None
    teacher_allowed: Tensor | None = None

    @classmethod
    def complete(
        cls,
        student_size: int,
        teacher_size: int,
        device: torch.device,
        *,
        teacher_to_student: Tensor | None = None,
        student_to_teacher: Tensor | None = None,
        student_allowed: Tensor | None = None,
        teacher_allowed: Tensor | None = None,
    ) -> "Vocabularies":
        """Check the shapes against V_S and V_T, and create missing maps on the device.

        Without `teacher_to_student`, equal ids correspond. The host waits if `student_to_teacher` must be computed.

        Raises:
            ValueError: a shape is wrong, or two teacher ids share a student id.
        """
        check_shape("teacher_to_student", teacher_to_student, teacher_size)
        check_shape("student_to_teacher", student_to_teacher, student_size)
        check_shape("student_allowed", student_allowed, student_size)
        check_shape("teacher_allowed", teacher_allowed, teacher_size)
        if teacher_to_student is None:
            ids = torch.arange(teacher_size, device=device)
            teacher_to_student = torch.where(ids < student_size, ids, -1)
        if student_to_teacher is None:
            student_to_teacher = invert_map(teacher_to_student, student_size)
        return cls(teacher_to_student, student_to_teacher, student_allowed, teacher_allowed)

    def are_allowed(self, student_ids: Tensor, teacher_ids: Tensor) -> Tensor:
        """BoolTensor [N, K]: whether tokens, given as ids [N, K] of both models, are in A_S and A_T."""
        return _is_allowed(student_ids, self.student_allowed) & _is_allowed(teacher_ids, self.teacher_allowed)


def invert_map(teacher_to_student: Tensor, student_size: int) -> Tensor:
    """m⁻¹ as LongTensor [V_S] of teacher ids, −1 = no counterpart, from m [V_T].

    Raises:
        ValueError: two teacher ids share a student id.
    """
    mapped = (teacher_to_student >= 0).nonzero().squeeze(1)
    student_to_teacher = teacher_to_student.new_full((student_size,), -1)
    student_to_teacher[teacher_to_student[mapped]] = mapped
    if not torch.equal(student_to_teacher[teacher_to_student[mapped]], mapped):
        raise ValueError("teacher_to_student sends two teacher ids to one student id; make it one to one")
    return student_to_teacher


def map_ids(id_map: Tensor, ids: Tensor) -> Tensor:
    """`id_map[ids]`, −1 for negative ids."""
    return torch.where(ids >= 0, id_map[ids.clamp_min(0)], -1)


def check_shape(name: str, tensor: Tensor | None, *shape: int) -> None:
    """Compare a tensor's shape with the expected one; None passes.

    Raises:
        ValueError: they differ.
    """
    if tensor is not None and tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")


def _is_allowed(ids: Tensor, allowed: Tensor | None) -> Tensor:
    return torch.ones_like(ids, dtype=torch.bool) if allowed is None else allowed[ids]
