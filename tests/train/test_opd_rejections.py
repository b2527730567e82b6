"""OPD with `rejected_below`: which positions count, against the teacher's own log-probabilities."""

import math

import pytest
import torch

from arkasr.distill.fused import divergence_from_states
from arkasr.distill.rejections import after_accepted_token, teacher_log_probs
from arkasr.distill.segments import SegmentTokens
from arkasr.teacher.teacher import TeacherStates
from tests.train.opd import OBJECTIVE, assert_same_waits, log_probs, overfit, step_with

SEGMENTS = OBJECTIVE.model_copy(update={"unpaired": "segments"})
WRONG_WORDS = ["the cat mary on the red book", "a red red hat in the book"]


@pytest.fixture
def results(monkeypatch):
    """What the objective returned for each micro-batch."""
    found = []

    def recorded(*arguments):
        found.append(divergence_from_states(*arguments))
        return found[-1]

    monkeypatch.setattr("arkasr.train.stages.opd.divergence_from_states", recorded)
    return found


def probabilities_of_rollouts(student, teacher, examples, texts):
    """The teacher's probability of each rollout token; NaN where it has another token."""
    found = []
    for example, text in zip(examples, texts, strict=True):
        ids, teacher_ids = student.transcript_ids(text), teacher.transcript_ids(text)
        own = log_probs(teacher, example, teacher_ids).gather(1, teacher_ids[:, None])[:, 0].exp().detach()
        their_tokens = zip(teacher_ids.tolist(), own.tolist(), strict=True)
        by_end = dict(zip(ends_of(teacher, teacher_ids), their_tokens, strict=True))
        for end, token in zip(ends_of(student, ids), ids.tolist(), strict=True):
            theirs, probability = by_end.get(end, (None, math.nan))
            same = theirs is not None and piece(student, token) == piece(teacher, theirs)
            found.append(probability if same else math.nan)
    return torch.tensor(found)


def piece(recognizer, token):
    return recognizer.tokenizer.convert_ids_to_tokens(token) if token != recognizer.stop_token_id else "stop"


def ends_of(recognizer, ids):
    """The number of characters of the text until the end of each token; the stop token is one more."""
    lengths = [len(recognizer.transcript_text(ids[: count + 1])) for count in range(len(ids) - 1)]
    return [*lengths, lengths[-1] + 1]


def starts_of(student, texts):
    lengths = [len(student.transcript_ids(text)) for text in texts]
    return [sum(lengths[:number]) for number in range(len(texts))]


def after_accepted(student, probabilities, texts, threshold):
    rejected = probabilities < threshold  # NaN is not below anything
    return torch.tensor(
        [t in starts_of(student, texts) or not bool(rejected[t - 1]) for t in range(len(probabilities))]
    )


@pytest.mark.parametrize("tail", ["none", "bucket"])
@pytest.mark.parametrize("teachers_vocabulary", ["same", "coarse"])
def test_positions_after_a_rejected_token_do_not_count(
    student, teacher, coarse, noise_examples, results, tmp_path, tail, teachers_vocabulary
):
    scorer = teacher if teachers_vocabulary == "same" else coarse
    examples = noise_examples(student, scorer)[:2]
    overfit(scorer, examples, tmp_path, steps=20)
    probabilities = probabilities_of_rollouts(student, scorer, examples, WRONG_WORDS)
    threshold = float(probabilities.nanmedian()) * 1.0001
    counted = after_accepted(student, probabilities, WRONG_WORDS, threshold)
    objective = OBJECTIVE.model_copy(update={"tail": tail})
    every, _ = step_with(student, scorer, objective, examples, WRONG_WORDS)
    objective = objective.model_copy(update={"rejected_below": threshold})
    some, _ = step_with(student, scorer, objective, examples, WRONG_WORDS)
    unmasked, masked = results
    assert torch.equal(masked.valid, unmasked.valid & counted)
    assert 0 < some.count < every.count
    torch.testing.assert_close(masked.per_position[masked.valid], unmasked.per_position[masked.valid])
    torch.testing.assert_close(some.total, unmasked.per_position[masked.valid].sum())
    paired = probabilities.isfinite().sum()
    share = some.metrics.values()["teacher/rejected_share"]
    assert share == pytest.approx(float((probabilities < threshold).sum() / paired))


def test_a_threshold_of_zero_keeps_every_bit(student, teacher, noise_examples):
    examples = noise_examples(student, teacher)
    expected, gradient = step_with(student, teacher, OBJECTIVE, examples)
    zero = OBJECTIVE.model_copy(update={"rejected_below": 0.0})
    found, found_gradient = step_with(student, teacher, zero, examples)
    assert torch.equal(found.total, expected.total)
    assert torch.equal(found_gradient, gradient)
    assert "teacher/rejected_share" not in found.metrics.values()


def test_a_segment_after_a_rejected_token_does_not_count(student, coarse, noise_examples, tmp_path):
    examples = noise_examples(student, coarse)[:2]
    overfit(coarse, examples, tmp_path, steps=20)
    probabilities = probabilities_of_rollouts(student, coarse, examples, WRONG_WORDS)
    before_segments = probabilities.roll(1)[probabilities.isnan() & probabilities.roll(1).isfinite()]
    threshold = float(before_segments.median()) * 1.0001
    kept = int((before_segments >= threshold).sum())
    assert 0 < kept < len(before_segments)
    losses = {}
    for objective in (OBJECTIVE, SEGMENTS):
        for rejected_below in (0.0, threshold):
            settings = objective.model_copy(update={"rejected_below": rejected_below})
            losses[objective.unpaired, rejected_below], _ = step_with(student, coarse, settings, examples, WRONG_WORDS)
    every, some = losses["segments", 0.0], losses["segments", threshold]
    assert every.metrics.values()["support/segments"] * 2 == len(before_segments)
    assert some.metrics.values()["support/segments"] * 2 == kept
    assert some.count == losses["skip", threshold].count + kept
    assert losses["skip", threshold].total < some.total < every.total


def test_the_first_position_of_segments():
    transcripts = [torch.tensor([5, 6, 7, 8, 9]), torch.tensor([4]), torch.tensor([1, 2, 3])]
    tokens = SegmentTokens.of(transcripts, [[range(1, 3), range(4, 5)], [], [range(2)]])
    assert tokens.first_positions.tolist() == [1, 4, 6]
    assert SegmentTokens.of(transcripts, [[], [], []]).first_positions.tolist() == []


def test_the_first_position_of_every_rollout_counts():
    rejected = torch.tensor([True, True, False, True, False, True])
    assert after_accepted_token(rejected, [3, 1, 2]).tolist() == [True, False, False, True, True, True]


def test_the_teacher_rejects_what_it_may_not_write():
    torch.manual_seed(0)
    teacher = TeacherStates(torch.randn(3, 4), torch.randn(6, 4), None)
    allowed = torch.tensor([True, True, True, False, True, True])
    ids = torch.tensor([0, 3, 5])
    expected = (teacher.hidden @ teacher.head.T).masked_fill(~allowed, -math.inf).log_softmax(1)
    found = teacher_log_probs(teacher, ids, allowed)
    torch.testing.assert_close(found, expected.gather(1, ids[:, None])[:, 0])
    assert found[1] == -math.inf


def test_rejection_does_not_wait_for_a_gpu(student, coarse, noise_examples, monkeypatch):
    settings = SEGMENTS, SEGMENTS.model_copy(update={"rejected_below": 0.02})
    assert_same_waits(student, coarse, noise_examples(student), settings, monkeypatch)
