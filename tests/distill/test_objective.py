import random
from functools import partial

import pytest
import torch

from arkasr.distill import union_topk_kl
from arkasr.errors import InputError
from tests.distill.position_by_position import Position, choose, divergence, gradient, tail_masses

NOTHING = float("-inf")


def logits(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2


# The worked example of docs/objective.md


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


# Against the formula written position by position


def random_case(rng: random.Random):
    """A few positions where everything can be partial: the map, the allowed sets, the rollout's support."""
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


# Properties


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


def test_two_micro_batches_normalised_over_the_step_are_one_batch():
    generated = torch.tensor([0, 1, 2, -1, 4, 5, 6])
    whole = logits(7, 20, seed=4).requires_grad_()
    teacher = logits(7, 20, seed=5)
    union_topk_kl(whole, teacher, top_k=3, generated=generated).loss.backward()

    halves = whole.detach().clone().requires_grad_()
    results = [
        union_topk_kl(halves[rows], teacher[rows], top_k=3, generated=generated[rows])
        for rows in (slice(0, 2), slice(2, 7))
    ]
    valid_positions = sum(int(result.valid.sum()) for result in results)
    for result in results:
        (result.per_position.sum() / valid_positions).backward()
    torch.testing.assert_close(halves.grad, whole.grad)


def test_temperature_acts_on_the_support_and_the_loss_is_scaled_by_its_square():
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


# Positions that are not valid


@pytest.mark.parametrize("tail", ["none", "bucket"])
@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("poison", [NOTHING, float("inf"), float("nan")])
def test_an_invalid_position_is_exactly_zero_whatever_its_logits_hold(kind, tail, poison):
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
def test_a_step_without_valid_positions_is_zero_and_still_has_a_gradient(tail):
    student = logits(2, 6).requires_grad_()
    result = union_topk_kl(student, logits(2, 6, seed=1), generated=torch.tensor([-1, -1]), tail=tail)
    result.loss.backward()
    assert result.loss.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_one_shared_token_is_no_support():
    result = union_topk_kl(logits(1, 6), logits(1, 6, seed=1), teacher_to_student=torch.tensor([3, *[-1] * 5]))
    assert result.support_size.item() <= 1
    assert not result.valid.item()


@pytest.mark.parametrize("tail", ["none", "bucket"])
@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_logits_masked_with_minus_infinity_are_tokens_that_are_not_allowed(kind, tail):
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


# The generated token


def test_a_sampled_token_joins_the_support_and_a_greedy_one_is_there_already():
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


# The traps


def test_student_only_tokens_keep_the_weight_that_the_teacher_gives_them():
    """Trap: raw logits of the teacher's own top-k beside log-probabilities of student-only tokens."""
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
    """Trap: student ids that index the teacher's scores. Here the ids are shifted by one."""
    student = torch.tensor([[9.0, 2.0, 1.0]])
    teacher = torch.tensor([[0.0, 1.0, 3.0, 2.0, -5.0]])
    teacher_to_student = torch.tensor([-1, 0, 1, 2, -1])
    result = union_topk_kl(student, teacher, top_k=2, teacher_to_student=teacher_to_student)
    p, q = teacher[0, 1:4].softmax(0), student[0].softmax(0)
    assert result.support_size.item() == 3
    assert result.loss.item() == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-5)


def test_unmapped_tokens_use_up_their_places_in_the_teachers_top_k():
    teacher = torch.tensor([[9.0, 8.0, 1.0, 0.0]])
    teacher_to_student = torch.tensor([-1, 0, 1, 2])
    result = union_topk_kl(
        torch.zeros(1, 3), teacher, top_k=2, teacher_to_student=teacher_to_student, support="teacher"
    )
    assert result.support_size.item() == 1


def test_the_students_support_is_that_of_rollout_time():
    student = torch.tensor([[5.0, 4.0, 0.0, 0.0]])
    teacher = torch.tensor([[5.0, 4.0, 0.0, 0.0]])
    rollout = torch.tensor([[2, 3]])
    u = union_topk_kl(student, teacher, top_k=2, student_support=rollout).support
    assert u.student_ids[u.mask].tolist() == [0, 1, 2, 3]
    assert u.student_ids[u.in_student].tolist() == [2, 3]


def test_tokens_that_one_side_may_not_say_take_no_place_in_its_top_k():
    scores = torch.tensor([[9.0, 8.0, 7.0, 6.0]])
    allowed = torch.tensor([False, True, True, True])
    u = union_topk_kl(scores, scores, top_k=2, student_allowed=allowed, teacher_allowed=allowed).support
    assert u.student_ids[u.mask].tolist() == [1, 2]
    u = union_topk_kl(scores, scores, top_k=2, student_allowed=allowed).support
    assert u.student_ids[u.mask].tolist() == [1, 2]


# Tails


def test_the_bucket_sees_probability_that_escapes_from_the_support():
    teacher = torch.tensor([[5.0, 4.0, -3.0, -3.0]])
    student = torch.tensor([[5.0, 4.0, -3.0, 6.0]], requires_grad=True)
    rollout = torch.tensor([[0, 1]])

    blind = union_topk_kl(student, teacher, top_k=2, student_support=rollout)
    assert blind.loss.item() == pytest.approx(0, abs=1e-6)
    seeing = union_topk_kl(student, teacher, top_k=2, student_support=rollout, tail="bucket")
    seeing.loss.backward()
    assert seeing.loss.item() > 0.5
    assert student.grad[0, 3].item() > 0.5


def test_the_bucket_is_the_tail_of_the_whole_distribution_at_that_temperature():
    student, teacher = logits(4, 12), logits(4, 12, seed=1)
    result = union_topk_kl(student, teacher, top_k=2, tail="bucket", temperature=3.0)
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    for n in range(4):
        inside = result.support.student_ids[n][result.support.mask[n]]
        classes = [torch.cat([x[n, inside], 1 - x[n, inside].sum()[None]]) for x in (p, q)]
        expected = 9 * (classes[0] * (classes[0] / classes[1]).log()).sum()
        assert result.per_position[n].item() == pytest.approx(expected.item(), rel=1e-9)


def test_a_tail_far_below_the_rounding_of_one_is_not_lost():
    student = torch.tensor([[30.0, 29.0, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[30.0, 29.0, 1.0, 1.0]])
    result = union_topk_kl(student, teacher, top_k=2, tail="bucket")
    result.loss.backward()
    exact = student.detach().double().softmax(1)[0, 2:].sum().item()
    assert result.student_tail_mass.item() == pytest.approx(exact, rel=1e-5)
    assert student.grad[0, 2].item() < 0


def test_support_over_everything_leaves_no_tail():
    student = logits(2, 5).requires_grad_()
    result = union_topk_kl(student, logits(2, 5, seed=1), support="full", tail="bucket")
    same = union_topk_kl(student, logits(2, 5, seed=1), support="full")
    result.loss.backward()
    assert result.student_tail_mass.tolist() == [0, 0]
    assert student.grad.isfinite().all()
    torch.testing.assert_close(result.per_position, same.per_position)


# Bad input


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"divergence": "kl"}, "objective.divergence: 'kl' does not exist; choose one of forward_kl,"),
        ({"support": "both"}, "objective.support: 'both' does not exist; choose one of union,"),
        ({"tail": "rest"}, "objective.tail: 'rest' does not exist; choose one of none, bucket"),
        ({"top_k": 0}, "objective.top_k is 0; it must be at least 1"),
        ({"temperature": 0.0}, "objective.temperature is 0.0; it must be above 0"),
        ({"temperature": float("nan")}, "objective.temperature is nan; it must be above 0"),
        ({"beta": 1.0}, "objective.beta is 1.0; it must lie between 0 and 1"),
        ({"upstream_scores": True, "tail": "bucket"}, "set objective.tail to none"),
    ],
)
def test_an_option_that_does_not_exist_is_named(options, sentence):
    with pytest.raises(InputError) as raised:
        union_topk_kl(logits(1, 4), logits(1, 4), **options)
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"generated": torch.zeros(3)}, r"generated has shape \(3,\), expected \(2,\)"),
        ({"student_allowed": torch.ones(5) > 0}, r"student_allowed has shape \(5,\), expected \(6,\)"),
        ({"teacher_to_student": torch.tensor([0, 1, 1, 2])}, "two teacher ids to one student id"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tensors, sentence):
    with pytest.raises(ValueError, match=sentence):
        union_topk_kl(logits(2, 6), logits(2, 4), **tensors)
