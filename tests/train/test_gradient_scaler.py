"""Steps with the gradient scaler of fp16. Accelerate creates one only on GPUs, so these tests supply it."""

import copy
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from arkasr.train.loop import train
from arkasr.train.optimizer import build_optimizers
from arkasr.train.settings import OptimizationSettings
from arkasr.train.stages.sft import SupervisedStage
from arkasr.train.step import optimizer_step
from tests.train.stream import Stream

SETTINGS = OptimizationSettings(steps=6, batch_seconds=10, learning_rate=1e-2)
SCALE = 1_024.0


class ChangedLossStage(SupervisedStage):
    """A stage that applies `change` to its loss before the backward pass."""

    change = None

    def loss(self, examples, seed):
        loss = super().loss(examples, seed)
        return replace(loss, total=self.change(loss.total)) if self.change else loss


@pytest.fixture
def accelerator():
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    accelerator.native_amp = True
    accelerator.state._mixed_precision = "fp16"
    yield accelerator
    AcceleratorState._reset_state(reset_partial_state=False)


def nan_loss_with_finite_gradient(total):
    return total + float("nan")


def finite_loss_with_infinite_gradient(total):
    return total + (total - total.detach()).abs().sqrt()


@pytest.mark.parametrize(
    ("change", "scale"),
    [(nan_loss_with_finite_gradient, SCALE), (finite_loss_with_infinite_gradient, SCALE / 2)],
)
def test_a_skipped_step_keeps_the_weights_and_only_an_infinite_gradient_lowers_the_scale(
    student, noise_examples, accelerator, change, scale
):
    stage = ChangedLossStage(student, None)
    optimizers = [accelerator.prepare_optimizer(optimizer) for optimizer in build_optimizers(stage, SETTINGS)]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["highest_lr"] = group["lr"]

    def step(number):
        return optimizer_step(
            accelerator, stage, stage, optimizers, iter([noise_examples(student)]), SETTINGS, number, 0, 1.0
        )

    def changed_since(before):
        return any(not torch.equal(value, before[name]) for name, value in student.model.state_dict().items())

    assert step(1).finite
    before = copy.deepcopy(student.model.state_dict())
    stage.change = change
    outcome = step(2)
    assert not outcome.finite
    # GradScaler's search for its scale explains only overflows. Other skipped steps count towards `max_skipped_steps`.
    assert outcome.gradient_nonfinite == (scale < SCALE)
    assert not changed_since(before)
    assert accelerator.scaler.get_scale() == scale
    stage.change = None
    assert step(3).finite
    assert changed_since(before)


def test_a_resumed_run_continues_with_the_scale_of_its_checkpoint(
    student, noise_examples, accelerator, monkeypatch, tmp_path
):
    """Overflows lower the scale, and do not count as skipped steps while it is above 1."""
    monkeypatch.setattr("arkasr.train.loop.accelerator_for", lambda stage, settings: accelerator)
    for steps in (2, 3):
        accelerator.free_memory()
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
        stage = ChangedLossStage(student, None)
        stage.change = finite_loss_with_infinite_gradient
        settings = SETTINGS.model_copy(update={"steps": steps, "max_skipped_steps": 1})
        train(stage, Stream([noise_examples(student)]), settings, tmp_path, seed=0)
        assert accelerator.scaler.get_scale() == SCALE / 2**steps
