import copy
import itertools
import json

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from arkasr.data.batches import DataPosition
from arkasr.errors import InputError
from arkasr.train.loop import optimizer_step, train
from arkasr.train.metrics import read_metrics
from arkasr.train.optimizer import build_optimizers
from arkasr.train.settings import ObjectiveSettings, OptimizationSettings
from arkasr.train.stages.ctc import CtcStage
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage

SETTINGS = OptimizationSettings(steps=6, batch_seconds=10, learning_rate=1e-2, warmup_steps=2, schedule="cosine")


class Stream:
    """Batches by position, as the training loop asks for them."""

    def __init__(self, batches):
        self.batches = batches
        self.position = DataPosition()
        self.dataset = [example for batch in batches for example in batch]

    def __iter__(self):
        while True:
            place = self.position.batch
            self.position = DataPosition(batch=place + 1)
            yield self.batches[place % len(self.batches)]

    def take_unheard(self):
        return []


def weights_after_one_step(student, batches, accumulation):
    stage = SupervisedStage(student, None)
    settings = SETTINGS.model_copy(update={"accumulation": accumulation, "warmup_steps": 0})
    accelerator = Accelerator(cpu=True)
    module, *optimizers = accelerator.prepare(stage, *build_optimizers(stage, settings))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["highest_lr"] = group["lr"]
    outcome = optimizer_step(accelerator, stage, module, optimizers, iter(batches), settings, 1, 0)
    return {name: value.clone() for name, value in student.model.state_dict().items()}, outcome.metrics.values()


def test_two_uneven_micro_batches_make_the_step_of_one(student, hear):
    examples = hear(student)
    twin = copy.deepcopy(student)
    whole, whole_metrics = weights_after_one_step(student, [examples], accumulation=1)
    parts, parts_metrics = weights_after_one_step(twin, [examples[:1], examples[1:]], accumulation=2)
    assert parts_metrics["loss"] == pytest.approx(whole_metrics["loss"], rel=1e-6)
    assert parts_metrics["train/gradient_norm"] == pytest.approx(whole_metrics["train/gradient_norm"], rel=1e-5)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_killed_run_ends_with_the_bits_of_an_undisturbed_one(student, hear, tmp_path, optimizer):
    examples = hear(student)
    batches = [examples[:2], examples[2:], examples[1:4]]
    settings = SETTINGS.model_copy(update={"checkpoint_every": 2, "optimizer": optimizer})
    twin = copy.deepcopy(student)
    train(SupervisedStage(student, None), Stream(batches), settings, tmp_path / "undisturbed", seed=3)

    class KilledError(Exception):
        pass

    def kill_after_step_five(step, _values):
        if step == 5:
            raise KilledError

    victim = copy.deepcopy(twin)
    with pytest.raises(KilledError):
        train(
            SupervisedStage(victim, None),
            Stream(batches),
            settings,
            tmp_path / "killed",
            seed=3,
            on_step=kill_after_step_five,
        )
    train(SupervisedStage(twin, None), Stream(batches), settings, tmp_path / "killed", seed=3)

    for name, value in student.model.state_dict().items():
        assert torch.equal(twin.model.state_dict()[name], value), name
    undisturbed, resumed = losses(tmp_path / "undisturbed"), losses(tmp_path / "killed")
    assert resumed == undisturbed
    assert [step for step, _ in resumed] == [1, 2, 3, 4, 5, 6]


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


def test_only_the_last_checkpoints_stay_and_they_hold_no_pickle(student, hear, tmp_path):
    settings = SETTINGS.model_copy(update={"checkpoint_every": 1, "keep_checkpoints": 2})
    train(SupervisedStage(student, None), Stream([hear(student)]), settings, tmp_path, seed=0)
    places = sorted(place.name for place in (tmp_path / "checkpoints").iterdir())
    assert places == ["step-5", "step-6"]
    files = {file.name for file in (tmp_path / "checkpoints" / "step-6").iterdir()}
    (tensors,) = (name for name in files if name.endswith(".safetensors"))
    assert files == {tensors, "state.json", "SHA256SUMS"}
    assert load_file(tmp_path / "checkpoints" / "step-6" / tensors)


def test_a_checkpoint_cut_off_while_it_was_written_is_not_resumed_from(student, hear, tmp_path):
    settings = SETTINGS.model_copy(update={"steps": 2, "checkpoint_every": 1})
    train(SupervisedStage(student, None), Stream([hear(student)]), settings, tmp_path, seed=0)
    half = tmp_path / "checkpoints" / "step-9"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    more = settings.model_copy(update={"steps": 3})
    train(SupervisedStage(student, None), Stream([hear(student)]), more, tmp_path, seed=0)
    assert [step for step, _ in losses(tmp_path)] == [1, 2, 3]


def test_a_loss_that_is_not_finite_stops_the_run_before_it_reaches_the_weights(student, hear, tmp_path):
    examples = hear(student)
    poisoned = copy.deepcopy(examples)
    poisoned[0].features[student.listener][:] = float("nan")
    settings = SETTINGS.model_copy(update={"checkpoint_every": 1})
    with pytest.raises(InputError, match="the loss of step 3 is not finite; lower learning_rate"):
        train(SupervisedStage(student, None), Stream([examples, examples, poisoned]), settings, tmp_path, seed=0)
    assert all(value.isfinite().all() for value in student.model.state_dict().values())
    assert [step for step, _ in losses(tmp_path)] == [1, 2]
    assert (tmp_path / "checkpoints" / "step-2").exists()


@pytest.mark.parametrize("stage_of", [SupervisedStage, CtcStage])
def test_the_loss_falls_on_a_batch_that_is_seen_again_and_again(student, hear, tmp_path, stage_of):
    settings = SETTINGS.model_copy(update={"steps": 30, "schedule": "constant"})
    train(stage_of(student, None), Stream([hear(student)]), settings, tmp_path, seed=0)
    seen = [loss for _, loss in losses(tmp_path)]
    assert seen[-1] < 0.7 * seen[0]


def test_ctc_trains_the_audio_side_and_the_embeddings_only(student, hear, tmp_path):
    before = {name: value.clone() for name, value in student.model.state_dict().items()}
    train(CtcStage(student, None), Stream([hear(student)]), SETTINGS, tmp_path, seed=0)
    changed = {name for name, value in student.model.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("audio_encoder") for name in changed)
    assert "model.embed_tokens.weight" in changed
    assert not any(name.startswith("model.layers") for name in changed)


def test_every_parameter_is_in_one_optimizer(student):
    stage = SupervisedStage(student, None)
    optimizers = build_optimizers(stage, SETTINGS.model_copy(update={"optimizer": "muon"}))
    held = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(map(id, stage.parameters()))
    muon = {id(p) for p in itertools.chain(*(group["params"] for group in optimizers[1].param_groups))}
    assert id(student.model.model.embed_tokens.weight) not in muon


@pytest.mark.parametrize("kind", ["sft", "opd"])
def test_checkpointed_activations_change_nothing(student, teacher, hear, tmp_path, kind):
    start = copy.deepcopy(student.model.state_dict())
    losses = {}
    for checkpointing in (False, True):
        student.model.load_state_dict(start)
        stage = (
            SupervisedStage(student, None)
            if kind == "sft"
            else DistillationStage(student, teacher, ObjectiveSettings(top_k=8, max_new_tokens=6))
        )
        settings = SETTINGS.model_copy(update={"activation_checkpointing": checkpointing})
        folder = tmp_path / str(checkpointing)
        train(stage, Stream([hear(student, teacher)]), settings, folder, seed=0)
        losses[checkpointing] = [line["loss"] for line in read_metrics(folder / "metrics.jsonl")]
        layers = [*student.audio_modules[0].whisper.layers, *student.decoder.layers]
        assert all(layer.gradient_checkpointing == checkpointing for layer in layers)
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)


def test_half_precision_is_near_single_precision(student, teacher, hear, tmp_path):
    start = copy.deepcopy(student.model.state_dict())
    losses = {}
    for precision in ("no", "bf16"):
        student.model.load_state_dict(start)
        stage = DistillationStage(student, teacher, ObjectiveSettings(top_k=8, max_new_tokens=6))
        settings = SETTINGS.model_copy(update={"steps": 2, "learning_rate": 1e-6, "mixed_precision": precision})
        train(stage, Stream([hear(student, teacher)]), settings, tmp_path / precision, seed=0)
        losses[precision] = [line["loss"] for line in read_metrics(tmp_path / precision / "metrics.jsonl")]
        AcceleratorState._reset_state(reset_partial_state=True)
    assert losses["bf16"] == pytest.approx(losses["no"], rel=0.05)
