"""Whisper as student and as teacher of OPD: no loss against itself, right gradients, the same bits after a kill."""

import copy

import pytest
import torch

from arkasr.train.loop import train
from arkasr.train.settings import AugmentationSettings, ObjectiveSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from tests import models
from tests.train.opd import overfit, set_rollouts
from tests.train.runs import SETTINGS, assert_weights, kill_at, killed, losses, weights_of
from tests.train.stream import Stream

OBJECTIVE = ObjectiveSettings(top_k=8, max_new_tokens=10)


@pytest.fixture
def whisper_teacher(whisper):
    """A model with the student's shapes and other weights."""
    teacher = copy.deepcopy(whisper)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in teacher.model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return teacher


@pytest.mark.parametrize("unpaired", ["skip", "segments"])
@pytest.mark.parametrize("augmentation", [None, AugmentationSettings(time_stretch=0.1, join_share=1.0)])
def test_a_whisper_that_is_its_own_teacher_has_no_loss(whisper, unpaired, augmentation):
    objective = OBJECTIVE.model_copy(update={"unpaired": unpaired})
    stage = DistillationStage(whisper, copy.deepcopy(whisper), objective, augmentation=augmentation)
    loss = stage(models.noise_examples(whisper), seed=0)
    assert loss.count > 0
    assert loss.total.item() == pytest.approx(0, abs=1e-5)
    assert loss.metrics.values()["support/argmax_agreement"] == 1


@pytest.mark.parametrize("has_the_window", ["student", "teacher", "both"])
def test_augmentation_does_not_make_clips_longer_than_the_window(whisper, short_whisper, has_the_window):
    student = whisper if has_the_window == "teacher" else short_whisper
    teacher = whisper if has_the_window == "student" else short_whisper
    augmentation = AugmentationSettings(time_stretch=0.4, join_share=1.0)
    stage = DistillationStage(student, teacher, OBJECTIVE, augmentation=augmentation)
    examples = models.noise_examples(student, teacher, seconds=(0.4, 0.7, 1.1, 1.5, 2.0))
    joined, frames = 0, []
    for seed in range(30):
        augmented = stage._augmented(examples, seed)
        joined += sum(len(example.joined_from) == 2 for example in augmented)
        frames += [example.features[short_whisper.frontend].shape[1] for example in augmented]
    assert joined > 10
    assert max(frames) == 200


def test_the_gradient_is_the_slope_of_the_loss_in_float64(whisper, whisper_teacher):
    examples = models.noise_examples(whisper)
    stage = DistillationStage(whisper, whisper_teacher, OBJECTIVE).double()
    whisper_teacher.model.double()
    parameters = [parameter for parameter in whisper.model.parameters() if parameter.requires_grad]
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
    # Other weights might write other words.
    set_rollouts(stage, models.TEXTS)

    @torch.no_grad()
    def loss_after(distance):
        for parameter, step in zip(parameters, direction, strict=True):
            parameter.add_(distance * step)
        return float(stage(examples, seed=0).total)

    stage(examples, seed=0).total.backward()
    slope = sum(float((p.grad * step).sum()) for p, step in zip(parameters, direction, strict=True))
    distance = 1e-6
    measured = (loss_after(distance) - loss_after(-2 * distance)) / (2 * distance)
    assert abs(slope) > 1e-3
    assert measured == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("kind", ["sft", "opd"])
def test_a_killed_and_resumed_run_of_whisper_ends_with_the_bits_of_an_undisturbed_one(
    whisper, whisper_teacher, tmp_path, kind
):
    examples = models.noise_examples(whisper)
    batches = [examples[:2], examples[2:], examples[1:4]]
    settings = SETTINGS.model_copy(update={"checkpoint_every": 2, "learning_rate": 1e-3})

    def run(student, folder, killed_at=None):
        stage = SupervisedStage(student, None)
        if kind == "opd":
            stage = DistillationStage(student, whisper_teacher, OBJECTIVE)
        with killed():
            train(stage, Stream(batches), settings, folder, seed=3, on_step=kill_at(killed_at))

    victim, resumed = copy.deepcopy(whisper), copy.deepcopy(whisper)
    run(whisper, tmp_path / "undisturbed")
    run(victim, tmp_path / "killed", killed_at=5)
    run(resumed, tmp_path / "killed")
    assert_weights(resumed, weights_of(whisper))
    assert losses(tmp_path / "killed") == losses(tmp_path / "undisturbed")


def test_training_lowers_the_loss_of_whisper_against_a_teacher_of_another_family(teacher, whisper, tmp_path):
    examples = models.noise_examples(whisper, teacher)
    overfit(teacher, examples, tmp_path / "teacher")
    stage = DistillationStage(whisper, teacher, OBJECTIVE)
    set_rollouts(stage, models.TEXTS)
    settings = SETTINGS.model_copy(update={"steps": 25, "schedule": "constant", "learning_rate": 3e-3})
    train(stage, Stream([examples]), settings, tmp_path / "opd", seed=0)
    lines = losses(tmp_path / "opd")
    assert lines[-1][1] < 0.5 * lines[0][1]
