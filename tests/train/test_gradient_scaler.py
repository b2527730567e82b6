"""Steps with the gradient scaler of fp16, which Accelerate makes on GPUs only; here it is handed in."""

import copy
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from arkasr.train.optimizer import build_optimizers
from arkasr.train.settings import OptimizationSettings
from arkasr.train.stages.sft import SupervisedStage
from arkasr.train.step import optimizer_step

SETTINGS = OptimizationSettings(steps=6, batch_seconds=10, learning_rate=1e-2)
SCALE = 1_024.0


class Spoilt(SupervisedStage):
    """A stage whose loss is changed before its gradient is taken."""

    spoil = None

    def loss(self, examples, seed):
        found = super().loss(examples, seed)
        return replace(found, total=self.spoil(found.total)) if self.spoil else found


@pytest.fixture
def accelerator():
    made = Accelerator(cpu=True)
    made.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    made.native_amp = True
    made.state._mixed_precision = "fp16"
    yield made
    AcceleratorState._reset_state(reset_partial_state=False)


def no_number_with_a_finite_gradient(total):
    return total + float("nan")


def a_number_with_no_finite_gradient(total):
    return total + (total - total.detach()).abs().sqrt()


@pytest.mark.parametrize(
    ("spoil", "scale"),
    [(no_number_with_a_finite_gradient, SCALE), (a_number_with_no_finite_gradient, SCALE / 2)],
)
def test_a_step_that_is_not_finite_leaves_the_weights_and_only_a_gradient_lowers_the_scale(
    student, hear, accelerator, spoil, scale
):
    stage = Spoilt(student, None)
    optimizers = [accelerator.prepare_optimizer(optimizer) for optimizer in build_optimizers(stage, SETTINGS)]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["highest_lr"] = group["lr"]

    def step(number):
        return optimizer_step(accelerator, stage, stage, optimizers, iter([hear(student)]), SETTINGS, number, 0, 1.0)

    def changed_since(before):
        return any(not torch.equal(value, before[name]) for name, value in student.model.state_dict().items())

    assert step(1).finite
    before = copy.deepcopy(student.model.state_dict())
    stage.spoil = spoil
    outcome = step(2)
    assert not outcome.finite
    # Only an overflow is the scaler's search for its scale; other skipped steps count towards the end of the run.
    assert outcome.overflowed == (scale < SCALE)
    assert not changed_since(before)
    assert accelerator.scaler.get_scale() == scale
    stage.spoil = None
    assert step(3).finite
    assert changed_since(before)
