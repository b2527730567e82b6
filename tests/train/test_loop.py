"""Training with each kind of stage, and with options that must not change the result."""

import pytest
import torch
from accelerate.state import AcceleratorState

from arkasr.train.loop import train
from arkasr.train.settings import ObjectiveSettings
from arkasr.train.stages.ctc import CtcStage
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from tests.train.runs import SETTINGS, losses, weights_of
from tests.train.stream import Stream

OBJECTIVE = ObjectiveSettings(top_k=8, max_new_tokens=6)


@pytest.mark.parametrize("stage_class", [SupervisedStage, CtcStage])
def test_the_loss_falls_on_a_repeated_batch(student, noise_examples, tmp_path, stage_class):
    settings = SETTINGS.model_copy(update={"steps": 30, "schedule": "constant"})
    train(stage_class(student, None), Stream([noise_examples(student)]), settings, tmp_path, seed=0)
    course = [loss for _, loss in losses(tmp_path)]
    assert course[-1] < 0.7 * course[0]


def test_ctc_trains_only_the_audio_encoder_and_the_embeddings(student, noise_examples, tmp_path):
    before = weights_of(student)
    train(CtcStage(student, None), Stream([noise_examples(student)]), SETTINGS, tmp_path, seed=0)
    changed = {name for name, value in student.model.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("audio_encoder") for name in changed)
    assert "model.embed_tokens.weight" in changed
    assert not any(name.startswith("model.layers") for name in changed)


@pytest.mark.parametrize("kind", ["sft", "opd"])
def test_activation_checkpointing_does_not_change_the_losses(student, teacher, noise_examples, tmp_path, kind):
    start = weights_of(student)
    for checkpointing in (False, True):
        student.model.load_state_dict(start)
        stage = SupervisedStage(student, None) if kind == "sft" else DistillationStage(student, teacher, OBJECTIVE)
        settings = SETTINGS.model_copy(update={"activation_checkpointing": checkpointing})
        train(stage, Stream([noise_examples(student, teacher)]), settings, tmp_path / str(checkpointing), seed=0)
        layers = [*student.audio_modules[0].whisper.layers, *student.decoder.layers]
        assert all(layer.gradient_checkpointing == checkpointing for layer in layers)
    for with_it, without in zip(losses(tmp_path / "True"), losses(tmp_path / "False"), strict=True):
        assert with_it == pytest.approx(without, rel=1e-5)


def test_losses_in_bfloat16_are_near_those_in_float32(student, teacher, noise_examples, tmp_path):
    start = weights_of(student)
    for precision in ("no", "bf16"):
        student.model.load_state_dict(start)
        stage = DistillationStage(student, teacher, OBJECTIVE)
        settings = SETTINGS.model_copy(update={"steps": 2, "learning_rate": 1e-6, "mixed_precision": precision})
        train(stage, Stream([noise_examples(student, teacher)]), settings, tmp_path / precision, seed=0)
        AcceleratorState._reset_state(reset_partial_state=True)
    for half, single in zip(losses(tmp_path / "bf16"), losses(tmp_path / "no"), strict=True):
        assert half == pytest.approx(single, rel=0.05)
