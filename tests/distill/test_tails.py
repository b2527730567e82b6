import pytest
import torch

from arkasr.distill import union_topk_kl
from tests.distill.test_objective import logits


def test_the_bucket_penalises_probability_outside_the_support():
    teacher = torch.tensor([[5.0, 4.0, -3.0, -3.0]])
    student = torch.tensor([[5.0, 4.0, -3.0, 6.0]], requires_grad=True)
    rollout = torch.tensor([[0, 1]])

    blind = union_topk_kl(student, teacher, top_k=2, student_support=rollout)
    assert blind.loss.item() == pytest.approx(0, abs=1e-6)
    seeing = union_topk_kl(student, teacher, top_k=2, student_support=rollout, tail="bucket")
    seeing.loss.backward()
    assert seeing.loss.item() > 0.5
    assert student.grad[0, 3].item() > 0.5


def test_the_bucket_is_the_tail_of_the_full_distribution_at_the_temperature():
    student, teacher = logits(4, 12), logits(4, 12, seed=1)
    result = union_topk_kl(student, teacher, top_k=2, tail="bucket", temperature=3.0)
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    for n in range(4):
        inside = result.support.student_ids[n][result.support.mask[n]]
        classes = [torch.cat([x[n, inside], 1 - x[n, inside].sum()[None]]) for x in (p, q)]
        expected = 9 * (classes[0] * (classes[0] / classes[1]).log()).sum()
        assert result.per_position[n].item() == pytest.approx(expected.item(), rel=1e-9)


def test_a_tail_below_the_rounding_of_one_is_kept():
    student = torch.tensor([[30.0, 29.0, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[30.0, 29.0, 1.0, 1.0]])
    result = union_topk_kl(student, teacher, top_k=2, tail="bucket")
    result.loss.backward()
    exact = student.detach().double().softmax(1)[0, 2:].sum().item()
    assert result.student_tail_mass.item() == pytest.approx(exact, rel=1e-5)
    assert student.grad[0, 2].item() < 0


def test_the_full_support_has_no_tail():
    student = logits(2, 5).requires_grad_()
    result = union_topk_kl(student, logits(2, 5, seed=1), support="full", tail="bucket")
    same = union_topk_kl(student, logits(2, 5, seed=1), support="full")
    result.loss.backward()
    assert result.student_tail_mass.tolist() == [0, 0]
    assert student.grad.isfinite().all()
    torch.testing.assert_close(result.per_position, same.per_position)
