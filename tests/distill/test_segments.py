"""The divergence of segments: its value, its gradient, and which segments count."""

import math

import pytest
import torch
from torch.nn import functional as F

from arkasr.distill.alignment import Alignment, Segment
from arkasr.distill.divergence import divergence_of
from arkasr.distill.options import Objective
from arkasr.distill.segments import (
    SegmentTokens,
    comparable_segments,
    divergence_of_segments,
    log1mexp,
    log_odds,
    log_odds_of,
    segment_log_probs,
    tokens_of_segments,
)
from arkasr.distill.vocabularies import Vocabularies
from arkasr.recognizers.head import top_tokens
from arkasr.teacher.teacher import SparseScores, TeacherStates

V_S, V_T, H = 11, 13, 5
STUDENT = [torch.tensor([1, 2, 3, 4]), torch.tensor([5, 6, 7])]
TEACHER = [torch.tensor([3, 2, 1]), torch.tensor([9, 8, 7, 6, 5])]
SEGMENTS = [
    [Segment(range(2), range(1)), Segment(range(3, 4), range(1, 3))],
    [Segment(range(3), range(1, 4))],
]
DIVERGENCES = ["forward_kl", "reverse_kl", "jsd"]


def tokens():
    alignments = [Alignment(ids, torch.empty(0), True) for ids in TEACHER]
    return tokens_of_segments(STUDENT, alignments, SEGMENTS)


def models(scale=1.0):
    """Hidden states and head of both models, float64."""
    generator = torch.Generator().manual_seed(0)
    shapes = (7, H), (V_S, H), (8, H), (V_T, H)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) * scale for shape in shapes]


def allowed():
    student, teacher = torch.ones(V_S, dtype=torch.bool), torch.ones(V_T, dtype=torch.bool)
    student[[0, 9]] = teacher[[0, 11]] = False
    return student, teacher


def divergences(hidden, head, teacher_hidden, teacher_head, objective):
    forced = teacher_hidden.index_select(0, tokens()[1].positions)
    teacher = TeacherStates(teacher_hidden, teacher_head, None, forced)
    identity = torch.full((V_T,), -1), torch.full((V_S,), -1)
    return divergence_of_segments((hidden, head), teacher, tokens(), objective, Vocabularies(*identity, *allowed()))


def two_point_divergence(p, q, divergence, beta):
    """Of {p, 1 − p} and {q, 1 − q}, in float64, by the definition."""

    def kl(a, b):
        return a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))

    if divergence == "jsd":
        r = beta * p + (1 - beta) * q
        return beta * kl(p, r) + (1 - beta) * kl(q, r)
    return kl(p, q) if divergence == "forward_kl" else kl(q, p)


def probability(hidden, head, may, ids, offset, positions):
    """The product of the tokens' probabilities, from a log_softmax over all allowed tokens."""
    log_probs = (hidden @ head.T).masked_fill(~may, -math.inf).log_softmax(1)
    return math.exp(sum(float(log_probs[offset + t, ids[t]]) for t in positions))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_value_is_that_of_the_definition(divergence):
    hidden, head, teacher_hidden, teacher_head = models()
    found = divergences(hidden, head, teacher_hidden, teacher_head, Objective(divergence=divergence, beta=0.3))
    may_student, may_teacher = allowed()
    expected = []
    for ours, theirs, offset, teacher_offset, segments in zip(STUDENT, TEACHER, (0, 4), (0, 3), SEGMENTS, strict=True):
        for segment in segments:
            q = probability(hidden, head, may_student, ours, offset, segment.student)
            p = probability(teacher_hidden, teacher_head, may_teacher, theirs, teacher_offset, segment.teacher)
            expected.append(two_point_divergence(p, q, divergence, 0.3))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_gradient_is_that_of_finite_differences_and_flows_into_the_student_only(divergence):
    hidden, head, *teacher = (tensor.requires_grad_() for tensor in models(scale=0.7))
    objective = Objective(divergence=divergence, beta=0.3)
    assert torch.autograd.gradcheck(lambda *student: divergences(*student, *teacher, objective), (hidden, head))
    gradients = torch.autograd.grad(
        divergences(hidden, head, *teacher, objective).sum(), (hidden, *teacher), allow_unused=True
    )
    assert gradients[0].abs().sum() > 0
    assert gradients[1:] == (None, None)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_divergence_is_zero_only_for_equal_probabilities(divergence):
    """A segment of one token, and one of two tokens with the same product."""
    half = torch.tensor([math.log(0.5), math.log(0.5)], dtype=torch.float64)
    one = SegmentTokens(torch.arange(1), torch.arange(1), [1])
    two = SegmentTokens(torch.arange(2), torch.arange(2), [2])
    vocabularies = Vocabularies(torch.tensor([-1]), torch.tensor([-1]))
    for difference in (0.0, 1e-3, -1e-3):
        # The odds of a student token with the probability 1/4 · e^difference, against one other token.
        q = 0.25 * math.exp(difference)
        hidden, head = torch.eye(2, dtype=torch.float64)[:1], torch.tensor([[math.log(q / (1 - q)), 0.0], [0.0, 0.0]])
        teacher = SparseScores(None, None, None, None, forced_log_probs=half)
        [found] = divergence_of_segments(
            (hidden, head.double()), teacher, (one, two), Objective(divergence=divergence), vocabularies
        )
        assert abs(found) < 1e-12 if difference == 0 else found > 1e-9


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("student", [-80.0, -17.0, 0.0, 17.0, 80.0])
@pytest.mark.parametrize("teacher", [-80.0, -17.0, 0.0, 17.0, 80.0])
def test_float32_is_exact_and_finite_for_probabilities_near_zero_and_one(divergence, student, teacher):
    """Log-odds of 17 are a probability of 1 − 4e−8, which float32 cannot tell from 1."""
    logits = torch.tensor([[student, 0.0], [student, 0.0]], requires_grad=True)
    ids, lengths = torch.zeros(2, dtype=torch.long), [2]

    def loss_of(logits):
        q = segment_log_probs(log_odds(logits, torch.eye(2, dtype=logits.dtype), ids, None), tokens)
        p = segment_log_probs(torch.tensor([teacher], dtype=logits.dtype), SegmentTokens(ids, ids, [1]))
        return divergence_of(p, q, torch.tensor([True]), divergence, 0.5).sum()

    tokens = SegmentTokens(ids, ids, lengths)
    loss = loss_of(logits)
    [gradient] = torch.autograd.grad(loss, logits)
    precise = logits.detach().double().requires_grad_()
    exact = loss_of(precise)
    [exact_gradient] = torch.autograd.grad(exact, precise)
    assert gradient.isfinite().all()
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-5, atol=1e-6)


def test_log_odds_of_log_probabilities():
    values = torch.tensor([-1e-30, -1e-7, -0.1, -0.69, -0.7, -5.0, -80.0, -9999.0], dtype=torch.float64)
    exact = [math.log(-math.expm1(v)) if v > -0.5 else math.log1p(-math.exp(v)) for v in values.tolist()]
    torch.testing.assert_close(log1mexp(values), torch.tensor(exact, dtype=torch.float64), rtol=1e-12, atol=0)
    z = torch.linspace(-30, 30, 61, dtype=torch.float64)
    torch.testing.assert_close(log_odds_of(F.logsigmoid(z)), z, rtol=1e-4, atol=0)
    assert log_odds_of(torch.tensor([0.0, -9999.0])).isfinite().all()


def test_many_positions_equal_few_and_the_normaliser_of_the_top_k():
    """More positions than fit in one chunk."""
    generator = torch.Generator().manual_seed(1)
    hidden, head = torch.randn(150, H, generator=generator), torch.randn(V_S, H, generator=generator)
    ids = torch.randint(1, 9, (150,), generator=generator)
    may, _ = allowed()
    top = top_tokens(hidden, head, may, 3, torch.float32)
    expected = (hidden * head[ids]).sum(1) - top.log_normaliser
    torch.testing.assert_close(F.logsigmoid(log_odds(hidden, head, ids, may)), expected)


def test_a_segment_counts_only_outside_masked_loops_and_with_allowed_tokens():
    ids, teacher_ids = torch.tensor([1, 2, 3, 4]), torch.tensor([5, 6, 7, 8])
    first, second = Segment(range(2), range(2)), Segment(range(2, 4), range(2, 4))
    alignment = Alignment(teacher_ids, torch.full((4,), -1), True, (first, second))
    every, student, teacher = torch.ones(4).bool(), torch.ones(10).bool(), torch.ones(10).bool()
    assert comparable_segments(alignment, ids, every, student, teacher) == [first, second]
    assert comparable_segments(alignment, ids, torch.tensor([1, 1, 1, 0]).bool(), student, teacher) == [first]
    assert comparable_segments(alignment, ids, every, student.index_fill(0, ids[:1], False), teacher) == [second]
    assert comparable_segments(alignment, ids, every, student, teacher.index_fill(0, teacher_ids[3:], False)) == [first]
