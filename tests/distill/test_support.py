import pytest
import torch

from arkasr.distill.options import Objective
from arkasr.distill.support import build_support, log_probabilities, mask_disallowed, vocabulary_mask
from arkasr.distill.vocabularies import Vocabularies, invert_map
from arkasr.recognizers.precision import working_dtype

NOTHING = float("-inf")


def build(teacher, student, *, top_k, teacher_to_student=None, student_support=None, support="union"):
    teacher, student = torch.tensor(teacher), torch.tensor(student)
    if teacher_to_student is None:
        teacher_to_student = list(range(teacher.shape[1]))
    vocabularies = Vocabularies.complete(
        student.shape[1],
        teacher.shape[1],
        torch.device("cpu"),
        teacher_to_student=torch.tensor(teacher_to_student),
    )
    return build_support(teacher, student, Objective(top_k=top_k, support=support), vocabularies, student_support)


def tokens(support, mask, n=0):
    return support.student_ids[n][mask[n]].tolist()


def test_the_union_holds_every_token_once_and_marks_its_origin():
    u = build([[4.0, 3.0, 2.0, 1.0]], [[1.0, 4.0, 2.0, 3.0]], top_k=2)
    assert tokens(u, u.mask) == [0, 1, 3]
    assert tokens(u, u.in_teacher) == [0, 1]
    assert tokens(u, u.in_student) == [1, 3]
    assert u.size.tolist() == [3]
    assert u.overlap.tolist() == [1]
    assert u.student_ids.shape[1] <= 2 * 2 + 1


def test_teacher_and_student_ids_of_a_slot_are_the_same_token():
    m = [2, -1, 0, 1]
    u = build([[4.0, 3.0, 2.0, 1.0]], [[1.0, 4.0, 2.0]], top_k=4, teacher_to_student=m)
    assert tokens(u, u.mask) == [0, 1, 2]
    assert u.teacher_ids[u.mask].tolist() == [2, 3, 0]


def test_support_sizes_differ_by_position():
    u = build([[4.0, 3.0, 0.0, 0.0]] * 2, [[4.0, 3.0, 0.0, 0.0], [0.0, 0.0, 3.0, 4.0]], top_k=2)
    assert u.size.tolist() == [2, 4]
    assert u.overlap.tolist() == [2, 0]


def test_empty_and_repeated_slots_of_the_students_top_k_are_ignored():
    rollout = torch.tensor([[3, 3, -1, -1]])
    u = build([[4.0, 3.0, 2.0, 1.0]], [[4.0, 3.0, 2.0, 1.0]], top_k=1, student_support=rollout)
    assert tokens(u, u.mask) == [0, 3]
    assert tokens(u, u.in_student) == [3]


def test_a_token_without_probability_in_either_model_is_no_candidate():
    u = build([[4.0, 3.0, NOTHING, 1.0]], [[NOTHING, 3.0, 9.0, 1.0]], top_k=4, support="full")
    assert tokens(u, u.mask) == [1, 3]
    u = build([[4.0, 3.0, NOTHING, 1.0]], [[NOTHING, 3.0, 9.0, 1.0]], top_k=4)
    assert tokens(u, u.mask) == [1, 3]


def test_a_row_of_minus_infinity_has_no_support():
    u = build([[NOTHING] * 3, [3.0, 2.0, 1.0]], [[1.0, 2.0, 3.0]] * 2, top_k=2)
    assert u.size.tolist() == [0, 3]


def test_the_full_support_still_marks_both_top_k():
    u = build([[4.0, 3.0, 2.0, 1.0]], [[1.0, 4.0, 2.0, 3.0]], top_k=2, support="full")
    assert tokens(u, u.mask) == [0, 1, 2, 3]
    assert tokens(u, u.in_teacher) == [0, 1]
    assert tokens(u, u.in_student) == [1, 3]


def test_a_map_is_inverted_only_if_it_is_one_to_one():
    assert invert_map(torch.tensor([2, -1, 0]), 4).tolist() == [2, -1, 0, -1]
    with pytest.raises(ValueError, match="make it one to one"):
        invert_map(torch.tensor([2, 2, 0]), 4)


def test_log_probabilities_keep_minus_infinity():
    scores = torch.tensor([[1.0, 1.0, NOTHING], [NOTHING] * 3])
    half = torch.tensor(0.5).log().item()
    assert log_probabilities(scores).tolist() == [
        [pytest.approx(half), pytest.approx(half), NOTHING],
        [NOTHING] * 3,
    ]


def test_masks_and_working_dtype():
    allowed = torch.tensor([True, False])
    assert mask_disallowed(torch.ones(1, 2, dtype=torch.bfloat16), allowed, torch.float32).tolist() == [[1, NOTHING]]
    ids, mask = torch.tensor([[0, 2, 0]]), torch.tensor([[False, True, False]])
    assert vocabulary_mask(ids, mask, 3).tolist() == [[False, False, True]]
    half, double = torch.zeros(1, dtype=torch.float16), torch.zeros(1, dtype=torch.float64)
    assert working_dtype(half, half) == torch.float32
    assert working_dtype(half, double) == torch.float64
