import pytest
import torch

from arkasr.distill import union_topk_kl


def test_student_only_tokens_keep_the_weight_that_the_teacher_gives_them():
    """Trap: raw logits for the teacher's own top-k, but log-probabilities for student-only tokens."""
    student = torch.tensor([[0.0, 0.0, 20.0]])
    teacher = torch.tensor([[31.0, 30.0, 29.0]])
    honest = union_topk_kl(student, teacher, top_k=1)
    p = torch.tensor([31.0, 29.0]).softmax(0)
    q = torch.tensor([0.0, 20.0]).softmax(0)
    assert honest.loss.item() == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-5)


def test_upstream_scores_mix_logits_and_log_probabilities():
    student = torch.tensor([[0.0, 1.0, 3.0, 0.0]])
    teacher = torch.tensor([[12.0, 11.0, 10.0, 9.0]])
    result = union_topk_kl(student, teacher, top_k=2, upstream_scores=True)
    mixed = torch.stack([teacher[0, 0], teacher[0, 1], teacher[0].log_softmax(0)[2]])
    p, q = mixed.softmax(0), student[0, :3].softmax(0)
    assert p[2].item() < 1e-4
    assert result.loss.item() == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-5)
    assert result.loss.item() != pytest.approx(union_topk_kl(student, teacher, top_k=2).loss.item(), rel=0.01)


def test_teacher_scores_are_read_at_teacher_ids():
    """Trap: indexing teacher scores with student ids. Here the ids are shifted by one."""
    student = torch.tensor([[9.0, 2.0, 1.0]])
    teacher = torch.tensor([[0.0, 1.0, 3.0, 2.0, -5.0]])
    teacher_to_student = torch.tensor([-1, 0, 1, 2, -1])
    result = union_topk_kl(student, teacher, top_k=2, teacher_to_student=teacher_to_student)
    p, q = teacher[0, 1:4].softmax(0), student[0].softmax(0)
    assert result.support_size.item() == 3
    assert result.loss.item() == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-5)


def test_unmapped_tokens_count_towards_the_teachers_k():
    teacher = torch.tensor([[9.0, 8.0, 1.0, 0.0]])
    teacher_to_student = torch.tensor([-1, 0, 1, 2])
    result = union_topk_kl(
        torch.zeros(1, 3), teacher, top_k=2, teacher_to_student=teacher_to_student, support="teacher"
    )
    assert result.support_size.item() == 1


def test_the_students_top_k_is_that_of_rollout_time():
    student = torch.tensor([[5.0, 4.0, 0.0, 0.0]])
    teacher = torch.tensor([[5.0, 4.0, 0.0, 0.0]])
    rollout = torch.tensor([[2, 3]])
    u = union_topk_kl(student, teacher, top_k=2, student_support=rollout).support
    assert u.student_ids[u.mask].tolist() == [0, 1, 2, 3]
    assert u.student_ids[u.in_student].tolist() == [2, 3]


def test_disallowed_tokens_do_not_count_towards_k():
    scores = torch.tensor([[9.0, 8.0, 7.0, 6.0]])
    allowed = torch.tensor([False, True, True, True])
    u = union_topk_kl(scores, scores, top_k=2, student_allowed=allowed, teacher_allowed=allowed).support
    assert u.student_ids[u.mask].tolist() == [1, 2]
    u = union_topk_kl(scores, scores, top_k=2, student_allowed=allowed).support
    assert u.student_ids[u.mask].tolist() == [1, 2]
