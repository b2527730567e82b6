import pytest
import torch

from arkasr.distill import union_topk_kl
from arkasr.errors import InputError
from tests.distill.test_objective import logits


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
def test_an_invalid_option_is_named(options, sentence):
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
def test_a_tensor_of_the_wrong_shape_is_named(tensors, sentence):
    with pytest.raises(ValueError, match=sentence):
        union_topk_kl(logits(2, 6), logits(2, 4), **tensors)
