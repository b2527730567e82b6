import random
from functools import partial

import pytest
import torch

from arkasr.distill import union_topk_kl
from tests.distill.position_by_position import Position, choose, divergence, gradient, tail_masses

NOTHING = float("-inf")


def logits(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2


def worked_example(**options):
    student = torch.tensor([[0.0, 1.0, 3.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    return student, union_topk_kl(student, teacher, top_k=2, **options)


def test_worked_example():
    student, result = worked_example()
    assert result.loss.item() == pytest.approx(1.822630, abs=1e-6)
    assert result.per_position.tolist() == [pytest.approx(1.822630, abs=1e-6)]
    assert result.valid.tolist() == [True]
    assert result.support_size.tolist() == [3]
    assert result.overlap.tolist() == [1]
    assert result.teacher_tail_mass.item() == pytest.approx(0.032059, abs=1e-6)
    assert result.student_tail_mass.item() == pytest.approx(0.040316, abs=1e-6)
    result.loss.backward()
    q_minus_p = [0.042010 - 0.665241, 0.114195 - 0.244728, 0.843795 - 0.090031, 0.0]
    assert student.grad[0].tolist() == pytest.approx(q_minus_p, abs=2e-6)


def test_supports_of_the_worked_example():
    tokens = {}
    for support in ("union", "teacher", "student", "intersection", "full"):
        _, result = worked_example(support=support)
        u = result.support
        tokens[support] = sorted(u.student_ids[u.mask].tolist())
    assert tokens == {
        "union": [0, 1, 2],
        "teacher": [0, 1],
        "student": [1, 2],
        "intersection": [1],
        "full": [0, 1, 2, 3],
    }


def random_case(rng: random.Random):
    """A few positions with a partial map, partial allowed sets, and perhaps the student's top-k of a rollout."""
    v_student, v_teacher, top_k = rng.randint(3, 14), rng.randint(3, 14), rng.choice([1, 2, 3, 5, 20])
    pairs = min(v_student, v_teacher) - rng.randint(0, 2)
    teacher_to_student = dict(
        zip(rng.sample(range(v_teacher), pairs), rng.sample(range(v_student), pairs), strict=True)
    )
    student_allowed = {j for j in range(v_student) if rng.random() < 0.9} or {0}
    teacher_allowed = {i for i in range(v_teacher) if rng.random() < 0.9} or {0}
    has_rollout, has_generated = rng.random() < 0.5, rng.random() < 0.7
    rollout_size = min(top_k, v_student)
    positions = []
    for _ in range(4):
        student = [rng.gauss(0, 2) for _ in range(v_student)]
        if rng.random() < 0.2:
            student[rng.randrange(v_student)] = NOTHING
        positions.append(
            Position(
                student=student,
                teacher=[rng.gauss(0, 2) for _ in range(v_teacher)],
                teacher_to_student=teacher_to_student,
                student_allowed=student_allowed,
                teacher_allowed=teacher_allowed,
                rollout_support=rng.sample(range(v_student), rollout_size) if has_rollout else None,
                generated=rng.randrange(v_student) if has_generated else None,
            )
        )
    options = {"top_k": top_k, "temperature": rng.choice([1.0, 2.0, 0.7]), "beta": rng.choice([0.5, 0.2])}
    return positions, options


def as_tensors(positions: list[Position]):
    first = positions[0]
    v_student, v_teacher = len(first.student), len(first.teacher)
    teacher_to_student = [first.teacher_to_student.get(i, -1) for i in range(v_teacher)]
    student = torch.tensor([x.student for x in positions], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([x.teacher for x in positions], dtype=torch.float64)
    keywords = {
        "teacher_to_student": torch.tensor(teacher_to_student),
        "student_allowed": torch.tensor([j in first.student_allowed for j in range(v_student)]),
        "teacher_allowed": torch.tensor([i in first.teacher_allowed for i in range(v_teacher)]),
    }
    if first.rollout_support is not None:
        keywords["student_support"] = torch.tensor([x.rollout_support for x in positions])
    if first.generated is not None:
        keywords["generated"] = torch.tensor([x.generated for x in positions])
    return student, teacher, keywords


@pytest.mark.parametrize("tail", ["none", "bucket"])
@pytest.mark.parametrize("support", ["union", "teacher", "student", "intersection", "full"])
@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_equals_the_formula_position_by_position_in_value_and_gradient(kind, support, tail):
    rng = random.Random(f"{kind} {support} {tail}")
    valid_positions = 0
    for _ in range(40):
        positions, options = random_case(rng)
        student, teacher, keywords = as_tensors(positions)
        result = union_topk_kl(student, teacher, divergence=kind, support=support, tail=tail, **keywords, **options)
        result.per_position.sum().backward()
        settings = {"kind": kind, "tail": tail} | {key: options[key] for key in ("temperature", "beta")}
        for n, x in enumerate(positions):
            chosen = choose(x, options["top_k"], support)
            assert result.valid[n].item() == chosen.valid
            assert result.support_size[n].item() == len(chosen.support)
            assert result.overlap[n].item() == len(chosen.teacher_top & chosen.student_top)
            if not chosen.valid:
                assert result.per_position[n].item() == 0
                assert not student.grad[n].any()
                continue
            valid_positions += 1
            value = divergence(x, support=chosen.support, **settings)
            slopes = gradient(x, partial(divergence, support=chosen.support, **settings))
            tails = (result.teacher_tail_mass[n].item(), result.student_tail_mass[n].item())
            assert result.per_position[n].item() == pytest.approx(value, rel=1e-9, abs=1e-12)
            assert student.grad[n].tolist() == pytest.approx(slopes, rel=1e-6, abs=1e-8)
            assert tails == pytest.approx(tail_masses(x, chosen.support), abs=1e-12)
        assert result.loss.item() == pytest.approx(
            sum(result.per_position.tolist()) / max(sum(result.valid.tolist()), 1)
        )
    assert valid_positions >= 20


@pytest.mark.parametrize("tail", ["none", "bucket"])
@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient(kind, tail):
    student = logits(5, 40).requires_grad_()
    result = union_topk_kl(student, student.detach().clone(), top_k=4, divergence=kind, tail=tail)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(0, abs=1e-15)
    assert student.grad.abs().max().item() < 1e-15
    assert result.support_size.tolist() == [4] * 5


def test_permuted_teacher_ids_give_the_loss_of_equal_ids():
    student, teacher = logits(6, 30, seed=1), logits(6, 30, seed=2)
    expected = union_topk_kl(student, teacher, top_k=5)
    teacher_to_student = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    permuted = union_topk_kl(student, teacher[:, teacher_to_student], top_k=5, teacher_to_student=teacher_to_student)
    torch.testing.assert_close(permuted.per_position, expected.per_position)
    torch.testing.assert_close(permuted.teacher_tail_mass, expected.teacher_tail_mass)
    assert permuted.support_size.tolist() == expected.support_size.tolist()


def test_two_micro_batches_normalised_over_the_step_equal_one_batch():
    generated = torch.tensor([0, 1, 2, -1, 4, 5, 6])
    full = logits(7, 20, seed=4).requires_grad_()
    teacher = logits(7, 20, seed=5)
    union_topk_kl(full, teacher, top_k=3, generated=generated).loss.backward()

    halves = full.detach().clone().requires_grad_()
    results = [
        union_topk_kl(halves[rows], teacher[rows], top_k=3, generated=generated[rows])
        for rows in (slice(0, 2), slice(2, 7))
    ]
    valid_positions = sum(int(result.valid.sum()) for result in results)
    for result in results:
        (result.per_position.sum() / valid_positions).backward()
    torch.testing.assert_close(halves.grad, full.grad)


def test_temperature_applies_on_the_support_and_scales_the_loss_by_its_square():
    _, result = worked_example(temperature=2.0)
    p = torch.tensor([2.0, 1.0, 0.0]).div(2).softmax(0)
    q = torch.tensor([0.0, 1.0, 3.0]).div(2).softmax(0)
    assert result.loss.item() == pytest.approx(4 * (p * (p / q).log()).sum().item(), rel=1e-6)


def test_half_precision_logits_are_computed_in_single_precision():
    for dtype in (torch.bfloat16, torch.float16):
        student = logits(6, 50, seed=6).to(dtype).requires_grad_()
        teacher = logits(6, 50, seed=7).to(dtype)
        result = union_topk_kl(student, teacher, top_k=8)
        result.loss.backward()
        same = union_topk_kl(student.detach().float(), teacher.float(), top_k=8)
        assert result.per_position.dtype == torch.float32
        assert torch.equal(result.per_position, same.per_position)
        assert student.grad.dtype == dtype
    assert union_topk_kl(logits(2, 9), logits(2, 9), top_k=3).loss.dtype == torch.float64


def test_only_the_student_gets_a_gradient():
    student, teacher = logits(3, 9).requires_grad_(), logits(3, 9, seed=1).requires_grad_()
    union_topk_kl(student, teacher, top_k=3, tail="bucket").loss.backward()
    assert student.grad.any()
    assert teacher.grad is None


def test_k_may_exceed_either_vocabulary():
    result = union_topk_kl(logits(2, 6), logits(2, 4, seed=1), top_k=32)
    assert result.support_size.tolist() == [4, 4]
    assert result.overlap.tolist() == [4, 4]


def test_no_positions_at_all():
    student = torch.zeros(0, 7, requires_grad=True)
    result = union_topk_kl(student, torch.zeros(0, 7), generated=torch.zeros(0, dtype=torch.long))
    result.loss.backward()
    assert result.loss.item() == 0
    assert result.per_position.shape == (0,)
