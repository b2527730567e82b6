"""OPD with `unpaired: segments`, against a slow reference from logits of the whole vocabulary."""

import copy

import pytest
import torch

from arkasr.recognizers.token_bytes import token_bytes
from tests.models import TEXTS
from tests.train.opd import OBJECTIVE, assert_same_waits, log_probs, overfit, repeated, step_with

SEGMENTS = OBJECTIVE.model_copy(update={"unpaired": "segments"})


def ends(recognizer, ids):
    """How many bytes of the text, without a leading blank, are written after each token."""
    pieces = token_bytes(recognizer.tokenizer, ids.tolist())
    return [len(b"".join(pieces[: count + 1]).lstrip(b" ")) for count in range(len(pieces))]


def slow_segments(student, teacher, examples, texts):
    """Sum of the forward KL of {these bytes, anything else} over the segments of all texts, and their number."""
    total, count = torch.zeros(()), 0
    for example, text in zip(examples, texts, strict=True):
        ids, teacher_ids = student.transcript_ids(text), teacher.transcript_ids(text)
        ours, theirs = log_probs(student, example, ids), log_probs(teacher, example, teacher_ids).detach()
        our_ends, their_ends = ends(student, ids)[:-1], ends(teacher, teacher_ids)[:-1]
        our_bytes = token_bytes(student.tokenizer, ids.tolist())
        their_bytes = token_bytes(teacher.tokenizer, teacher_ids.tolist())
        begin = their_begin = 0
        for end in sorted(set(our_ends) & set(their_ends)):
            until, their_until = our_ends.index(end) + 1, their_ends.index(end) + 1
            if our_bytes[begin:until] != their_bytes[their_begin:their_until]:
                s = sum(ours[t, ids[t]] for t in range(begin, until))
                t = sum(theirs[t, teacher_ids[t]] for t in range(their_begin, their_until))
                total = total + t.exp() * (t - s) + (1 - t.exp()) * ((1 - t.exp()).log() - (1 - s.exp()).log())
                count += 1
            begin, their_begin = until, their_until
    return total, count


def assert_equals_slow_reference(student, teacher, examples, texts):
    skipped, skipped_gradient = step_with(student, teacher, OBJECTIVE, examples, texts)
    found, gradient = step_with(student, teacher, SEGMENTS, examples, texts)
    total, count = slow_segments(student, teacher, examples, texts)
    assert found.count - skipped.count == count > 0
    assert total > count  # the teacher knows the texts, and the student does not
    torch.testing.assert_close(found.total, skipped.total + total, rtol=1e-5, atol=1e-6)
    student.model.zero_grad()
    total.backward()
    gradients = [parameter.grad for parameter in student.model.parameters() if parameter.grad is not None]
    expected = skipped_gradient + torch.cat([part.flatten() for part in gradients])
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)
    values = found.metrics.values()
    assert values["support/segments"] == count / len(examples)
    assert values["support/segment_loss"] == pytest.approx(float(total.detach()) / count, rel=1e-4)
    assert values["teacher/paired_share"] == skipped.metrics.values()["teacher/paired_share"]
    assert values["teacher/paired_share"] < values["teacher/compared_share"] == 1


@pytest.mark.parametrize("tied", [True, False])
def test_a_teacher_with_other_merges_gives_the_loss_and_gradient_of_a_slow_reference(
    student, coarse, noise_examples, tmp_path, tied
):
    overfit(coarse, noise_examples(coarse), tmp_path)
    if not tied:
        student.model.config.tie_word_embeddings = False
        student.model.lm_head.weight = torch.nn.Parameter(student.head.detach() * 1.5)
    assert_equals_slow_reference(student, coarse, noise_examples(student), TEXTS)


def test_a_first_token_that_differs_by_the_leading_blank_is_a_segment(student, whisper, noise_examples, tmp_path):
    for text in TEXTS[:2]:
        assert token_bytes(student.tokenizer, student.transcript_ids(text).tolist())[0] == b"t"
        assert token_bytes(whisper.tokenizer, whisper.transcript_ids(text).tolist())[0] == b" t"
    examples = noise_examples(student, whisper)[:2]
    overfit(whisper, examples, tmp_path, steps=30)
    assert_equals_slow_reference(student, whisper, examples, TEXTS[:2])
    found, _ = step_with(student, whisper, SEGMENTS, examples, TEXTS[:2])
    assert found.metrics.values()["support/segments"] == 1


def test_a_teacher_with_the_same_vocabulary_has_no_segments_and_the_same_bits(student, teacher, noise_examples):
    for scorer in (copy.deepcopy(student), teacher):
        examples = noise_examples(student, scorer)
        expected, gradient = step_with(student, scorer, OBJECTIVE, examples)
        found, found_gradient = step_with(student, scorer, SEGMENTS, examples)
        assert torch.equal(found.total, expected.total)
        assert found.count == expected.count
        assert torch.equal(found_gradient, gradient)
        assert found.metrics.values()["support/segments"] == 0


def test_segments_in_a_masked_loop_do_not_count(student, coarse, noise_examples):
    examples, looping = noise_examples(student)[:1], [repeated("red book in", 9)]
    _, in_all = slow_segments(student, coarse, examples, looping)
    assert in_all >= 9
    for choice in ("keep", "mask"):
        skip, segments = (settings.model_copy(update={"looping": choice}) for settings in (OBJECTIVE, SEGMENTS))
        skipped, _ = step_with(student, coarse, skip, examples, looping)
        found, _ = step_with(student, coarse, segments, examples, looping)
        counted = int(found.count - skipped.count)
        assert counted == in_all if choice == "keep" else counted <= 1 + in_all / 9


def test_segments_do_not_wait_for_a_gpu(student, coarse, noise_examples, monkeypatch):
    assert_same_waits(student, coarse, noise_examples(student), (OBJECTIVE, SEGMENTS), monkeypatch)


def test_bfloat16_gives_nearly_the_same_loss(student, coarse, noise_examples):
    examples = noise_examples(student)
    expected, _ = step_with(student, coarse, SEGMENTS, examples)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, gradient = step_with(student, coarse, SEGMENTS, examples)
    assert found.total.dtype == torch.float32
    assert gradient.isfinite().all()
    name = "support/segment_loss"
    assert found.metrics.values()[name] == pytest.approx(expected.metrics.values()[name], rel=0.05)
