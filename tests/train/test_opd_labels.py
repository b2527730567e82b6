"""OPD with `label_weight`: the cross-entropy of labels beside the divergence."""

from dataclasses import replace

import pytest
import torch

from arkasr.recognizers.scoring import forced_logits
from arkasr.train.settings import AugmentationSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from tests.models import TEXTS
from tests.teacher.requests import step
from tests.train.opd import OBJECTIVE, SilentStudent, set_rollouts

WEIGHTED = OBJECTIVE.model_copy(update={"label_weight": 0.5})


def labels_of(examples, texts=TEXTS):
    return {example.utterance.id: text for example, text in zip(examples, texts, strict=False)}


def step_with(student, teacher, settings, examples, labels, rollouts=TEXTS):
    student.model.zero_grad()
    stage = DistillationStage(student, teacher, settings, labels)
    set_rollouts(stage, list(reversed(rollouts[: len(examples)])))
    return step(stage, examples)


def test_the_loss_is_the_divergence_and_the_weighted_cross_entropy(student, teacher, noise_examples):
    examples = noise_examples(student, teacher)
    labels = labels_of(examples)
    divergence, divergence_gradient = step_with(student, teacher, OBJECTIVE, examples, labels)
    student.model.zero_grad()
    supervised, supervised_gradient = step(SupervisedStage(student, None), examples)
    both, gradient = step_with(student, teacher, WEIGHTED, examples, labels)
    torch.testing.assert_close(both.total, divergence.total + 0.5 * supervised.total)
    torch.testing.assert_close(gradient, divergence_gradient + 0.5 * supervised_gradient, rtol=1e-4, atol=1e-5)
    assert both.count == divergence.count + supervised.count
    values = both.metrics.values()
    assert values["label/share"] == 1
    assert values["label/loss"] == pytest.approx(float(supervised.total.detach() / supervised.count), rel=1e-5)


def test_utterances_without_a_label_have_the_divergence_only(student, teacher, noise_examples):
    examples = noise_examples(student, teacher)[:2]
    first, _ = step_with(student, teacher, WEIGHTED, examples, labels_of(examples[:1]))
    none, _ = step_with(student, teacher, WEIGHTED, examples, {"another": "text"})
    plain, _ = step_with(student, teacher, OBJECTIVE, examples, {})
    assert first.metrics.values()["label/share"] == 0.5
    assert first.count == plain.count + len(student.transcript_ids(TEXTS[0]))
    assert none.count == plain.count
    torch.testing.assert_close(none.total, plain.total)


def test_labels_teach_where_every_rollout_is_empty(student, teacher, noise_examples):
    silent = SilentStudent(student.model, student.processor)
    examples = noise_examples(student, teacher)[:2]
    unlabelled = [replace(e, utterance=replace(e.utterance, text=None)) for e in examples]
    stage = DistillationStage(silent, teacher, WEIGHTED, labels_of(examples))
    loss = stage(unlabelled, seed=0)
    assert loss.metrics.values()["rollout/skipped_rate"] == 1
    assert loss.count == sum(len(student.transcript_ids(text)) for text in TEXTS[:2])
    loss.total.backward()
    assert student.head.grad.abs().sum() > 0


def test_two_joined_labels_that_are_too_long_together_do_not_count(whisper, noise_examples):
    examples = noise_examples(whisper)[:2]
    label = "the red apples " * 4
    assert whisper.can_write(len(whisper.transcript_ids(label)))
    assert not whisper.can_write(len(whisper.transcript_ids(label + label)))
    unlabelled = [replace(e, utterance=replace(e.utterance, text=None)) for e in examples]
    joined = AugmentationSettings(join_share=1.0)
    labels = {example.utterance.id: label for example in examples}
    stage = DistillationStage(whisper, whisper, WEIGHTED, labels, augmentation=joined)
    values = stage(unlabelled, seed=0).metrics.values()
    assert values["label/share"] == 0
    short = DistillationStage(whisper, whisper, WEIGHTED, labels_of(examples), augmentation=joined)
    assert short(unlabelled, seed=0).metrics.values()["label/share"] == 1


def test_an_interrupted_step_has_no_loss_but_all_passes(student, teacher, noise_examples, monkeypatch):
    """Other processes may have their scores and run the passes of the labels, in which FSDP gathers the weights."""
    examples = noise_examples(student, teacher)
    stage = DistillationStage(student, teacher, WEIGHTED, labels_of(examples))
    passes = []
    monkeypatch.setattr(
        "arkasr.train.stages.label_loss.forced_logits",
        lambda *arguments: passes.append(len(arguments[2])) or forced_logits(*arguments),
    )
    stage.teacher.submit = lambda *arguments: lambda stop_requested: None
    loss = stage(examples, seed=0)
    assert loss.interrupted
    assert (loss.total, loss.count) == (0, 0)
    assert passes == [len(examples)]
    loss.total.backward()


def test_a_calibration_measures_the_rollouts_only(student, teacher, noise_examples):
    examples = noise_examples(student, teacher)
    stage = DistillationStage(student, teacher, WEIGHTED, labels_of(examples))
    set_rollouts(stage, TEXTS)
    plain = DistillationStage(student, teacher, OBJECTIVE, labels_of(examples))
    set_rollouts(plain, TEXTS)
    with torch.no_grad():
        measured, expected = (one.eval()(examples, seed=0) for one in (stage, plain))
    assert torch.equal(measured.total, expected.total)
    assert "label/loss" not in measured.metrics.values()
