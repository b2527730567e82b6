"""Frozen parts cost nothing and do not change; the other parts learn, each at its own rate."""

import copy
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from arkasr.errors import InputError
from arkasr.train.loop import train
from arkasr.train.parts import freeze_parts, trainable_parts
from arkasr.train.settings import ObjectiveSettings
from arkasr.train.stages.ctc import CtcStage
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from tests.train.runs import SETTINGS, KilledError, assert_weights, kill_at, logged, losses, weights_of
from tests.train.stream import Stream

PARTS = ("encoder", "adapter", "decoder", "embeddings")
KINDS = ("ctc", "sft", "opd")
RATES = {"encoder": 1e-4, "adapter": 3e-3}


@pytest.fixture(params=["student", "teacher"], ids=["ark-asr", "qwen3-asr"])
def recognizer(request):
    """A model of each family."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def stage_of(teacher):
    """Builds the stage of a kind that trains a recogniser."""

    def build(kind, recognizer):
        if kind == "opd":
            return DistillationStage(recognizer, copy.deepcopy(teacher), ObjectiveSettings(top_k=8, max_new_tokens=6))
        return {"ctc": CtcStage, "sft": SupervisedStage}[kind](recognizer, None)

    return build


def settings_with(**changes):
    """Settings of two steps at a constant rate."""
    return SETTINGS.model_validate(
        SETTINGS.model_dump() | {"steps": 2, "schedule": "constant", "warmup_steps": 0} | changes
    )


def names_of(recognizer, part):
    names = {id(parameter): name for name, parameter in recognizer.model.named_parameters()}
    return {names[id(parameter)] for parameter in recognizer.parameters_of(part)}


def largest_changes(recognizer, before):
    """The largest change of a parameter in each part."""
    after = recognizer.model.state_dict()
    return {
        part: max((after[name] - before[name]).abs().max().item() for name in names_of(recognizer, part))
        for part in recognizer.parts
    }


@pytest.mark.parametrize("frozen", [["encoder"], ["adapter", "embeddings"], ["decoder"]], ids="+".join)
@pytest.mark.parametrize("kind", KINDS)
def test_all_parts_change_but_the_frozen_ones_which_have_no_optimizer_state(
    recognizer, stage_of, teacher, noise_examples, tmp_path, kind, frozen
):
    before = weights_of(recognizer)
    trained = set(trainable_parts(kind, PARTS)) - set(frozen)
    stage = stage_of(kind, recognizer)
    train(stage, Stream([noise_examples(recognizer, teacher)]), settings_with(freeze=frozen), tmp_path, seed=0)
    assert {part for part, change in largest_changes(recognizer, before).items() if change} == trained

    (tensors,) = (tmp_path / "checkpoints" / "step-2").glob("*-of-*.safetensors")
    with_state = {name.split(".", 4)[4] for name in load_file(tensors) if name.startswith("optimizer.0.exp_avg.model.")}
    assert with_state == set().union(*(names_of(recognizer, part) for part in trained))
    count = sum(parameter.numel() for part in trained for parameter in recognizer.parameters_of(part))
    own = sum(parameter.numel() for name, parameter in stage.named_parameters() if not name.startswith("model."))
    assert logged(tmp_path, "train/parameters") == [(count + own,)] * 2


@pytest.mark.parametrize("kind", ["sft", "opd"])
def test_the_frozen_encoder_of_whisper_costs_no_backward_pass(whisper, stage_of, teacher, noise_examples, kind):
    assert {id(parameter) for part in whisper.parts for parameter in whisper.parameters_of(part)} == {
        id(parameter) for parameter in whisper.model.parameters()
    }
    stage = stage_of(kind, whisper)
    freeze_parts(whisper, settings_with(freeze=["encoder"]))
    with observed_encoder(whisper) as seen:
        loss = stage(noise_examples(whisper, teacher), seed=0)
    assert seen["saved"] == 0
    loss.total.backward()
    assert all(parameter.grad is None for parameter in whisper.parameters_of("encoder"))
    assert all(parameter.grad is not None for parameter in whisper.parameters_of("decoder"))


@contextmanager
def observed_encoder(recognizer):
    """What a forward pass does in the encoder: bytes that autograd saves, and the outputs of its modules."""
    modules = [recognizer.model.get_submodule(path) for path in recognizer.parts["encoder"]]
    depth, seen = [], {"saved": 0, "outputs": []}

    def leave(module, inputs, output):
        depth.pop()
        seen["outputs"] += [value for value in tree_leaves(output) if isinstance(value, torch.Tensor)]

    def pack(tensor):
        seen["saved"] += tensor.nbytes if depth else 0
        return tensor

    hooks = [module.register_forward_pre_hook(lambda *_: depth.append(None)) for module in modules]
    hooks += [module.register_forward_hook(leave) for module in modules]
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield seen
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_autograd_saves_nothing_in_a_frozen_encoder(recognizer, stage_of, teacher, noise_examples, kind):
    stage = stage_of(kind, recognizer)
    examples = noise_examples(recognizer, teacher)
    with observed_encoder(recognizer) as trained:
        stage(examples, 0)
    freeze_parts(recognizer, settings_with(freeze=["encoder"]))
    with observed_encoder(recognizer) as frozen:
        stage(examples, 0).total.backward()
    assert trained["saved"] > 0
    assert frozen["saved"] == 0
    assert not any(output.requires_grad for output in frozen["outputs"])
    assert all(parameter.grad is not None for parameter in recognizer.parameters_of("adapter"))


@pytest.mark.parametrize("kind", KINDS)
def test_activation_checkpointing_does_not_run_a_frozen_encoder_again(
    recognizer, stage_of, teacher, noise_examples, tmp_path, kind
):
    """Transformers requires a gradient of the first convolution when checkpointing is enabled."""
    settings = settings_with(steps=1, freeze=["encoder"], activation_checkpointing=True)
    with observed_encoder(recognizer) as encoder:
        train(stage_of(kind, recognizer), Stream([noise_examples(recognizer, teacher)]), settings, tmp_path, seed=0)
    assert encoder["outputs"]
    assert not any(output.requires_grad for output in encoder["outputs"])


class HeadGradients(TorchDispatchMode):
    """Counts new tensors with the shape of an output head or its gradient: `[V, H]`, in CTC with the blank's row."""

    def __init__(self, head):
        super().__init__()
        rows, width = head.shape
        self.shapes = {shape for count in (rows, rows + 1) for shape in ((count, width), (width, count))}
        self.head = head.untyped_storage().data_ptr()
        self.count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and tuple(result.shape) in self.shapes:
            self.count += result.is_sparse or result.untyped_storage().data_ptr() != self.head
        return result


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_of_frozen_embeddings_and_their_tied_head_is_computed(
    student, stage_of, teacher, noise_examples, kind
):
    stage, examples = stage_of(kind, student), noise_examples(student, teacher)

    def tensors_of_a_step():
        with HeadGradients(student.head) as counted:
            stage(examples, 0).total.backward()
        return counted.count

    assert tensors_of_a_step() > 0
    freeze_parts(student, settings_with(freeze=["embeddings"]))
    assert tensors_of_a_step() == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frozen", [["encoder"], ["embeddings"], ["encoder", "embeddings"]], ids="+".join)
def test_freezing_changes_neither_the_loss_nor_the_gradients_of_the_other_parts(
    recognizer, stage_of, teacher, noise_examples, kind, frozen
):
    stage, examples = stage_of(kind, recognizer), noise_examples(recognizer, teacher)

    def loss_and_gradients():
        stage.zero_grad()
        loss = stage(examples, 0)
        loss.total.backward()
        return loss.total.item(), {name: value.grad for name, value in stage.named_parameters()}

    loss, gradients = loss_and_gradients()
    freeze_parts(recognizer, settings_with(freeze=frozen))
    frozen_loss, frozen_gradients = loss_and_gradients()
    assert frozen_loss == pytest.approx(loss, rel=1e-6)
    without = set().union(*(recognizer.parameters_of(part) for part in frozen))
    for name, parameter in stage.named_parameters():
        if parameter in without:
            assert frozen_gradients[name] is None
        elif gradients[name] is not None:
            torch.testing.assert_close(frozen_gradients[name], gradients[name], rtol=1e-4, atol=1e-5)


def test_the_norm_that_is_clipped_is_that_of_the_trained_parts(student, noise_examples, tmp_path):
    stage, examples = SupervisedStage(student, None), noise_examples(student)
    loss = stage(examples, 0)
    (loss.total / loss.count).backward()
    trained = [p.grad.clone() for part in ("adapter", "embeddings") for p in student.parameters_of(part)]
    stage.zero_grad()
    settings = settings_with(steps=1, freeze=["encoder", "decoder"])
    train(stage, Stream([examples]), settings, tmp_path, seed=0)
    ((norm,),) = logged(tmp_path, "train/gradient_norm")
    assert norm == pytest.approx(torch.nn.utils.get_total_norm(trained).item(), rel=1e-5)


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_each_part_learns_at_its_rate_times_the_factor_of_the_schedule(student, noise_examples, tmp_path, factor):
    """AdamW's first step changes a weight by the learning rate if its gradient is not tiny."""
    before = weights_of(student)
    settings = settings_with(
        steps=1, learning_rates=RATES, learning_rate=1e-3, weight_decay=0, warmup_steps=round(1 / factor)
    )
    train(SupervisedStage(student, None), Stream([noise_examples(student)]), settings, tmp_path, seed=0)
    for part, change in largest_changes(student, before).items():
        assert change == pytest.approx(factor * RATES.get(part, 1e-3), rel=1e-2), part


def test_with_muon_the_rate_of_a_part_scales_the_rate_of_its_matrices_too(student, noise_examples, tmp_path):
    before = weights_of(student)
    changes = []
    for number, rates in enumerate(({}, {"adapter": 2e-3, "decoder": 1e-4})):
        student.model.load_state_dict(before)
        settings = settings_with(steps=1, optimizer="muon", learning_rate=1e-3, weight_decay=0, learning_rates=rates)
        train(
            SupervisedStage(student, None), Stream([noise_examples(student)]), settings, tmp_path / str(number), seed=0
        )
        changes.append({name: value - before[name] for name, value in student.model.state_dict().items()})
    same, scaled = changes
    for part, ratio in (("encoder", 1.0), ("adapter", 2.0), ("decoder", 0.1), ("embeddings", 1.0)):
        for name in names_of(student, part):
            torch.testing.assert_close(scaled[name], ratio * same[name], rtol=1e-2, atol=1e-7)


def test_a_rate_for_one_part_and_rates_for_all_others_end_with_the_same_bits(student, noise_examples, tmp_path):
    examples, twin = noise_examples(student), copy.deepcopy(student)
    one = settings_with(learning_rate=1e-3, learning_rates={"adapter": 1e-4})
    others = settings_with(learning_rate=1e-4, learning_rates=dict.fromkeys(("encoder", "decoder", "embeddings"), 1e-3))
    train(SupervisedStage(student, None), Stream([examples]), one, tmp_path / "one", seed=0)
    train(SupervisedStage(twin, None), Stream([examples]), others, tmp_path / "others", seed=0)
    assert_weights(twin, weights_of(student))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_killed_and_resumed_run_with_frozen_parts_ends_with_the_bits_of_an_undisturbed_one(
    student, teacher, stage_of, noise_examples, tmp_path, kind, optimizer
):
    examples = noise_examples(student, teacher)
    batches = [examples[:2], examples[2:], examples[1:4]]
    settings = settings_with(
        steps=4, checkpoint_every=1, optimizer=optimizer, freeze=["encoder"], learning_rates={"adapter": 3e-3}
    )
    victim, resumed = copy.deepcopy(student), copy.deepcopy(student)
    train(stage_of(kind, student), Stream(batches), settings, tmp_path / "undisturbed", seed=3)
    with pytest.raises(KilledError):
        train(stage_of(kind, victim), Stream(batches), settings, tmp_path / "killed", seed=3, on_step=kill_at(3))
    train(stage_of(kind, resumed), Stream(batches), settings, tmp_path / "killed", seed=3)
    assert_weights(resumed, weights_of(student))
    assert losses(tmp_path / "killed") == losses(tmp_path / "undisturbed")


def test_a_ctc_stage_trains_every_part_but_the_decoder(recognizer):
    CtcStage(recognizer, None)
    trained = {part for part in PARTS if any(value.requires_grad for value in recognizer.parameters_of(part))}
    assert trained == set(trainable_parts("ctc", PARTS)) == {"encoder", "adapter", "embeddings"}


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("sft", {"freeze": ["encodr"]}, "freeze: the model has no part 'encodr'; did you mean 'encoder'?"),
        ("sft", {"freeze": ["head"]}, "known are adapter, decoder, embeddings, encoder"),
        ("opd", {"learning_rates": {"adaptor": 1}}, "learning_rates: the model has no part 'adaptor'; did you mean"),
        ("sft", {"freeze": list(PARTS)}, "freeze: nothing is left to train; remove a part"),
        ("ctc", {"freeze": ["encoder", "adapter", "embeddings"]}, "freeze: nothing is left to train; remove a part"),
        ("ctc", {"learning_rates": {"decoder": 1}}, "learning_rates.decoder: this stage does not train the part"),
    ],
)
def test_parts_that_the_model_does_not_have_or_train_are_refused(
    student, stage_of, noise_examples, tmp_path, kind, changes, message
):
    with pytest.raises(InputError) as refused:
        train(stage_of(kind, student), Stream([noise_examples(student)]), settings_with(**changes), tmp_path, seed=0)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
