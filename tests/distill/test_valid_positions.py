import pytest
import torch

from arkasr.distill import union_topk_kl
from tests.distill.test_objective import NOTHING, logits


@pytest.mark.parametrize("tail", ["none", "bucket"])
@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("poison", [NOTHING, float("inf"), float("nan")])
def test_an_invalid_position_is_exactly_zero_for_any_logits(kind, tail, poison):
    student, teacher = logits(3, 8), logits(3, 8, seed=1)
    student[1], teacher[1] = poison, poison
    student.requires_grad_()
    generated = torch.tensor([0, -1, 2])
    for support in ("union", "full"):
        student.grad = None
        with torch.autograd.set_detect_anomaly(True):
            result = union_topk_kl(
                student, teacher, top_k=3, generated=generated, divergence=kind, tail=tail, support=support
            )
            result.loss.backward()
        assert result.valid.tolist() == [True, False, True]
        for value in (result.per_position, result.teacher_tail_mass, result.student_tail_mass):
            assert value[1].item() == 0
            assert value.isfinite().all()
        assert torch.equal(student.grad[1], torch.zeros(8, dtype=torch.float64))
        assert student.grad.isfinite().all()


@pytest.mark.parametrize("tail", ["none", "bucket"])
def test_without_valid_positions_loss_and_gradient_are_zero(tail):
    student = logits(2, 6).requires_grad_()
    result = union_topk_kl(student, logits(2, 6, seed=1), generated=torch.tensor([-1, -1]), tail=tail)
    result.loss.backward()
    assert result.loss.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_a_support_of_one_token_is_not_valid():
    result = union_topk_kl(logits(1, 6), logits(1, 6, seed=1), teacher_to_student=torch.tensor([3, *[-1] * 5]))
    assert result.support_size.item() <= 1
    assert not result.valid.item()


@pytest.mark.parametrize("tail", ["none", "bucket"])
@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_a_logit_of_minus_infinity_means_not_allowed(kind, tail):
    allowed = torch.tensor([True, True, False, True, True, False, True, True])
    student, teacher = logits(4, 8), logits(4, 8, seed=1)
    expected = union_topk_kl(
        student,
        teacher,
        top_k=3,
        student_allowed=allowed,
        teacher_allowed=allowed,
        divergence=kind,
        tail=tail,
    )
    masked = student.masked_fill(~allowed, NOTHING).requires_grad_()
    result = union_topk_kl(masked, teacher.masked_fill(~allowed, NOTHING), top_k=3, divergence=kind, tail=tail)
    result.loss.backward()
    torch.testing.assert_close(result.per_position, expected.per_position)
    assert masked.grad.isfinite().all()
    assert not masked.grad[:, ~allowed].any()


def test_a_sampled_token_joins_the_support_which_already_has_a_greedy_one():
    student = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]])
    teacher = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])

    def size(**options):
        return union_topk_kl(student, teacher, top_k=1, **options).support_size.item()

    assert size() == 2
    assert size(generated=torch.tensor([0])) == 2
    assert size(generated=torch.tensor([2])) == 3
    assert size(generated=torch.tensor([2]), support="student") == 2
    assert size(generated=torch.tensor([2]), support="teacher") == 1


def test_a_position_whose_generated_token_has_no_counterpart_is_not_valid():
    unmapped = torch.tensor([0, 1, 2, -1])
    result = union_topk_kl(
        logits(3, 4),
        logits(3, 4, seed=1),
        top_k=4,
        teacher_to_student=unmapped,
        generated=torch.tensor([0, 3, 2]),
    )
    assert result.valid.tolist() == [True, False, True]
