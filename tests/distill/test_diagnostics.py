from math import exp, log

import pytest
import torch

from arkasr.distill import union_topk_kl
from arkasr.distill.diagnostics import (
    POSITION_METRICS,
    rollout_statistics,
    support_diagnostics,
)


def diagnose(student, teacher, *, top_k, student_allowed=None, teacher_allowed=None, **options):
    allowed = {"student_allowed": student_allowed, "teacher_allowed": teacher_allowed}
    result = union_topk_kl(student, teacher, top_k=top_k, **allowed, **options)
    return support_diagnostics(result, top_k=top_k), result


def distribution(scores):
    total = sum(exp(score) for score in scores)
    return [exp(score) / total for score in scores]


def test_worked_example():
    student = torch.tensor([[0.0, 1.0, 3.0, 0.0]])
    teacher = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    values, _ = diagnose(student, teacher, top_k=2)
    p, q = distribution([2, 1, 0, -1]), distribution([0, 1, 3, 0])
    entropies = [-sum(x * log(x) for x in side) for side in (p, q)]
    assert {name: value.item() for name, value in values.items()} == pytest.approx(
        {
            "vuss": 3,
            "overlap": 1,
            "overlap_ratio": 0.5,
            "overlap_mass_teacher": p[1],
            "overlap_mass_student": q[1],
            "overlap_advantage": 0,
            "entropy_teacher": entropies[0],
            "entropy_student": entropies[1],
            "entropy_gap": abs(entropies[0] - entropies[1]),
            "tail_mass_teacher": p[3],
            "tail_mass_student": q[3],
            "argmax_agreement": 0,
        },
        abs=1e-6,
    )


def test_overlap_advantage_is_the_mean_over_the_shared_tokens():
    student = torch.tensor([[1.0, 3.0, 0.0, -1.0]])
    teacher = torch.tensor([[4.0, 2.0, 0.0, -1.0]])
    values, _ = diagnose(student, teacher, top_k=2)
    p, q = distribution([4, 2]), distribution([1, 3])
    expected = sum(a * (log(b) - log(a)) for a, b in zip(p, q, strict=True)) / 2
    assert values["overlap_advantage"].item() == pytest.approx(expected, rel=1e-5)
    assert values["overlap_advantage"].item() < 0


def test_overlap_metrics_are_zero_without_a_shared_token():
    student = torch.tensor([[0.0, 0.0, 5.0, 4.0]])
    teacher = torch.tensor([[5.0, 4.0, 0.0, 0.0]])
    values, result = diagnose(student, teacher, top_k=2)
    assert result.valid.item()
    for name in ("overlap", "overlap_mass_teacher", "overlap_mass_student", "overlap_advantage"):
        assert values[name].item() == 0


def test_identical_models_agree_in_every_metric():
    scores = torch.randn(5, 20, generator=torch.Generator().manual_seed(0))
    values, _ = diagnose(scores, scores.clone(), top_k=4)
    assert values["overlap_ratio"].tolist() == [1] * 5
    assert values["argmax_agreement"].tolist() == [1] * 5
    assert values["entropy_gap"].abs().max() < 1e-6
    assert values["overlap_advantage"].abs().max() < 1e-6


def test_argmax_agreement_compares_tokens_not_ids():
    student = torch.tensor([[5.0, 0.0, 1.0], [5.0, 0.0, 1.0]])
    teacher = torch.tensor([[0.0, 5.0, 1.0], [5.0, 0.0, 1.0]])
    values, _ = diagnose(student, teacher, top_k=2, teacher_to_student=torch.tensor([1, 0, 2]))
    assert values["argmax_agreement"].tolist() == [1, 0]


def test_distributions_are_over_the_allowed_tokens():
    scores = torch.zeros(1, 8)
    allowed = torch.arange(8) < 4
    values, _ = diagnose(scores, scores, top_k=2, student_allowed=allowed, teacher_allowed=allowed)
    assert values["entropy_teacher"].item() == pytest.approx(log(4))
    assert values["entropy_student"].item() == pytest.approx(log(4))


def test_invalid_positions_are_zero_for_any_logits():
    student, teacher = torch.randn(2, 6), torch.randn(2, 6)
    student[1], teacher[1] = float("nan"), float("-inf")
    values, result = diagnose(student, teacher, top_k=2, generated=torch.tensor([0, -1]))
    assert result.valid.tolist() == [True, False]
    assert set(values) == set(POSITION_METRICS)
    for value in values.values():
        assert value[1].item() == 0


def test_rollout_statistics():
    stop = 9
    token_ids = [
        torch.tensor([1, 2, 3, stop]),
        torch.tensor([stop]),
        torch.tensor([5, 5, 5, 5, 5, 5, 5, 5]),
        torch.tensor([1, 2, 3, 4, 1, 2, 3, 4, stop]),
        torch.tensor([], dtype=torch.long),
    ]
    statistics = rollout_statistics(token_ids, torch.tensor([True, True, False, True, False]), cap=8)
    assert statistics["tokens"].tolist() == [3, 0, 8, 8, 0]
    assert statistics["empty"].tolist() == [False, True, False, False, True]
    assert statistics["truncated"].tolist() == [False, False, True, False, False]
    assert statistics["repetition"].tolist() == pytest.approx([0, 0, 4 / 5, 1 / 5, 0])
