"""One optimizer step: accumulation, seeds and optimizers."""

import copy
import itertools

import pytest
import torch
from accelerate import Accelerator

from arkasr.train.distribution import distribute
from arkasr.train.optimizer import build_optimizers
from arkasr.train.stages.sft import SupervisedStage
from arkasr.train.step import micro_batch_seed, optimizer_step
from tests.train.runs import SETTINGS, weights_of


def weights_after_one_step(student, batches, accumulation):
    stage = SupervisedStage(student, None)
    settings = SETTINGS.model_copy(update={"accumulation": accumulation, "warmup_steps": 0})
    accelerator = Accelerator(cpu=True)
    module, optimizers = distribute(accelerator, stage, settings)
    outcome = optimizer_step(accelerator, stage, module, optimizers, iter(batches), settings, 1, 0, 1.0)
    return weights_of(student), outcome.metrics.values()


def test_two_unequal_micro_batches_make_the_same_step_as_one(student, noise_examples):
    examples = noise_examples(student)
    twin = copy.deepcopy(student)
    expected, expected_metrics = weights_after_one_step(student, [examples], accumulation=1)
    weights, metrics = weights_after_one_step(twin, [examples[:1], examples[1:]], accumulation=2)
    assert metrics["loss"] == pytest.approx(expected_metrics["loss"], rel=1e-6)
    assert metrics["train/gradient_norm"] == pytest.approx(expected_metrics["train/gradient_norm"], rel=1e-5)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5)


def test_every_micro_batch_has_its_own_seed():
    seeds = {micro_batch_seed(7, step, index) for step in range(20) for index in range(3000)}
    assert len(seeds) == 20 * 3000


def test_every_parameter_is_in_exactly_one_optimizer(student):
    stage = SupervisedStage(student, None)
    optimizers = build_optimizers(stage, SETTINGS.model_copy(update={"optimizer": "muon"}))
    held = [[id(p) for group in optimizer.param_groups for p in group["params"]] for optimizer in optimizers]
    assert sorted(itertools.chain(*held)) == sorted(map(id, stage.parameters()))
    _, muon = held
    assert id(student.model.model.embed_tokens.weight) not in muon
