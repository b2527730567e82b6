import copy
import json

import pytest
import torch

from arkasr.distill.fused import StudentStates
from arkasr.teacher.in_process import InProcessTeacher
from arkasr.train.loop import train
from arkasr.train.settings import AugmentationSettings
from arkasr.train.stages.opd import DistillationStage
from tests.train.opd import OBJECTIVE, overfit
from tests.train.runs import SETTINGS
from tests.train.stream import Stream

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def test_a_student_that_is_its_own_teacher_has_no_loss(student, noise_examples):
    teacher = copy.deepcopy(student)
    stage = DistillationStage(student, teacher, OBJECTIVE)
    loss = stage(noise_examples(student), seed=0)
    assert loss.count > 0
    assert loss.total.item() == pytest.approx(0, abs=1e-5)
    values = loss.metrics.values()
    assert values["support/overlap_ratio"] == 1
    assert values["support/argmax_agreement"] == 1
    assert values["support/vuss_mean"] == OBJECTIVE.top_k


@pytest.mark.parametrize("tied", [True, False])
def test_the_sparse_gradient_of_a_tied_or_untied_head_accumulates(student, teacher, noise_examples, tied):
    if not tied:
        model = student.model
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 1.5)
    examples = noise_examples(student, teacher)
    stage = DistillationStage(student, teacher, OBJECTIVE)

    def gradients():
        student.model.zero_grad()
        for part in (examples[:2], examples[2:]):
            stage(part, seed=0).total.backward()
        return student.model.get_input_embeddings().weight.grad, student.head.grad

    found = gradients()
    assert all(gradient.layout == torch.strided for gradient in found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("arkasr.train.stages.opd.StudentStates", dense_head_gradient)
        expected = gradients()
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_an_offloaded_teacher_gives_the_same_loss(student, teacher, noise_examples, device):
    examples = noise_examples(student, teacher)
    student.model.to(device)
    teacher.model.to(device)
    expected = DistillationStage(student, teacher, OBJECTIVE)(examples, seed=0)
    offloaded = InProcessTeacher(teacher, offload=True)
    found = DistillationStage(student, offloaded, OBJECTIVE)(examples, seed=0)
    assert torch.equal(found.total, expected.total)
    assert {weight.device.type for weight in teacher.model.parameters()} == {"cpu"}


def dense_head_gradient(*arguments, **options):
    return StudentStates(*arguments, **options | {"sparse_head_gradient": False})


def test_training_lowers_the_loss_and_leaves_the_teacher_unchanged(student, teacher, noise_examples, tmp_path):
    examples = noise_examples(student, teacher)
    overfit(teacher, examples, tmp_path / "teacher")
    overfit(student, examples, tmp_path / "student")
    before = {name: value.clone() for name, value in teacher.model.state_dict().items()}
    stage = DistillationStage(student, teacher, OBJECTIVE)
    settings = SETTINGS.model_copy(update={"steps": 25, "schedule": "constant", "learning_rate": 3e-3})
    train(stage, Stream([examples]), settings, tmp_path / "opd", seed=0)
    lines = [json.loads(line) for line in (tmp_path / "opd" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    for name, value in teacher.model.state_dict().items():
        assert torch.equal(value, before[name])
    phases = {f"time/{name}" for name in ("data", "encode", "rollout", "teacher", "student", "backward", "optimizer")}
    assert phases <= lines[0].keys()
    for name in ("rollout/tokens", "rollout/fallback_rate", "teacher/mapped_share", "support/valid_share"):
        assert name in lines[0]
    assert lines[0]["teacher/mapped_share"] == 1


def test_the_teacher_is_in_no_checkpoint_and_no_optimizer(student, teacher):
    stage = DistillationStage(student, teacher, OBJECTIVE)
    assert not any("teacher" in name for name in stage.state_dict())
    assert set(map(id, stage.parameters())) == set(map(id, student.model.parameters()))


def test_both_models_read_the_same_augmented_features_also_of_joined_utterances(student, noise_examples):
    """A teacher with the student's weights agrees with it only if both read the same features."""
    teacher = copy.deepcopy(student)
    settings = AugmentationSettings(time_stretch=0.2, time_masks=5, join_share=1.0)
    stage = DistillationStage(student, teacher, OBJECTIVE, augmentation=settings)
    examples, augmented = noise_examples(student), []
    write = stage.rollouts.write
    stage.rollouts.write = lambda prompts, some, *more: augmented.extend(some) or write(prompts, some, *more)
    for seed in range(3):
        loss = stage(examples, seed)
        assert loss.count > 0
        assert loss.total.item() == pytest.approx(0, abs=1e-5)
    assert any(example.joined_from for example in augmented)
    frames = [example.features[student.frontend].shape[1] for example in augmented]
    assert frames != [example.features[student.frontend].shape[1] for example in examples] * 3
