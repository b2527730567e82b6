import copy
import itertools
import json
import signal
import subprocess
import time
from contextlib import nullcontext

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from arkasr.errors import InputError, Interrupted
from arkasr.train.loop import train
from arkasr.train.metrics import read_metrics
from arkasr.train.optimizer import build_optimizers
from arkasr.train.settings import ObjectiveSettings, OptimizationSettings
from arkasr.train.signals import StopSignals
from arkasr.train.stages.ctc import CtcStage
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from arkasr.train.step import micro_batch_seed, optimizer_step
from tests.train.stream import Stream

SETTINGS = OptimizationSettings(steps=6, batch_seconds=10, learning_rate=1e-2, warmup_steps=2, schedule="cosine")


def weights_after_one_step(student, batches, accumulation):
    stage = SupervisedStage(student, None)
    settings = SETTINGS.model_copy(update={"accumulation": accumulation, "warmup_steps": 0})
    accelerator = Accelerator(cpu=True)
    module, *optimizers = accelerator.prepare(stage, *build_optimizers(stage, settings))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["highest_lr"] = group["lr"]
    outcome = optimizer_step(accelerator, stage, module, optimizers, iter(batches), settings, 1, 0, 1.0)
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


def test_what_a_kill_left_of_a_checkpoint_is_removed_and_not_resumed_from(student, hear, tmp_path):
    settings = SETTINGS.model_copy(update={"steps": 2, "checkpoint_every": 1})
    train(SupervisedStage(student, None), Stream([hear(student)]), settings, tmp_path, seed=0)
    half = tmp_path / "checkpoints" / ".writing-9"
    half.mkdir()
    (half / "state.json").write_bytes(b"{}")
    more = settings.model_copy(update={"steps": 3})
    train(SupervisedStage(student, None), Stream([hear(student)]), more, tmp_path, seed=0)
    assert [step for step, _ in losses(tmp_path)] == [1, 2, 3]
    assert not half.exists()


@pytest.mark.parametrize("damage", ["a bit", "a file", "the end", "the checksums"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(student, hear, tmp_path, damage):
    examples = hear(student)
    batches = [examples[:2], examples[2:], examples[1:4]]
    settings = SETTINGS.model_copy(update={"checkpoint_every": 2})
    start = copy.deepcopy(student.model.state_dict())
    train(SupervisedStage(student, None), Stream(batches), settings, tmp_path / "whole", seed=3)
    whole = {name: value.clone() for name, value in student.model.state_dict().items()}

    student.model.load_state_dict(start)
    train(SupervisedStage(student, None), Stream(batches), settings, tmp_path / "damaged", seed=3)
    newest = tmp_path / "damaged" / "checkpoints" / "step-6"
    (tensors,) = newest.glob("*.safetensors")
    content = bytearray(tensors.read_bytes())
    if damage == "a bit":
        content[len(content) // 2] ^= 1
        tensors.write_bytes(content)
    if damage == "a file":
        tensors.unlink()
    if damage == "the end":
        tensors.write_bytes(content[:-100])
    if damage == "the checksums":
        (newest / "SHA256SUMS").unlink()

    said = []
    again = SupervisedStage(student, None)
    train(again, Stream(batches), settings, tmp_path / "damaged", seed=3, on_warning=said.append)
    assert len(said) == 1
    assert said[0].startswith(f"{newest}: ")
    assert said[0].endswith("; going back to the checkpoint before it")
    for name, value in whole.items():
        assert torch.equal(student.model.state_dict()[name], value), name
    assert losses(tmp_path / "damaged") == losses(tmp_path / "whole")


def test_the_checksums_of_a_checkpoint_are_those_that_sha256sum_reads(student, hear, tmp_path):
    train(SupervisedStage(student, None), Stream([hear(student)]), SETTINGS, tmp_path, seed=0)
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=tmp_path / "checkpoints" / "step-6",
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count(": OK") == 2


def test_a_stage_whose_checkpoints_are_all_damaged_is_not_begun_anew_in_silence(student, hear, tmp_path):
    train(SupervisedStage(student, None), Stream([hear(student)]), SETTINGS, tmp_path, seed=0)
    (tmp_path / "checkpoints" / "step-6" / "state.json").write_text("{}")
    with pytest.raises(InputError, match="every checkpoint is damaged; remove the folder to train the stage again"):
        train(SupervisedStage(student, None), Stream([hear(student)]), SETTINGS, tmp_path, seed=0)


def poisoned(examples, frontend):
    """The same examples, the first of them with features that are not numbers."""
    examples = copy.deepcopy(examples)
    examples[0].features[frontend][:] = float("nan")
    return examples


def test_a_step_that_is_not_finite_is_skipped_counted_and_said(student, hear, tmp_path):
    examples = hear(student)
    batches = [examples, poisoned(examples, student.frontend), examples]
    said = []
    stage = SupervisedStage(student, None)
    train(stage, Stream(batches), SETTINGS, tmp_path, seed=0, on_warning=said.append)
    assert all(value.isfinite().all() for value in student.model.state_dict().values())
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["train/skipped"] for line in lines] == [0, 1, 0, 0, 1, 0]
    assert ["loss" in line for line in lines] == [True, False, True, True, False, True]
    assert said == [f"step {step} skipped: its loss or gradient is not finite" for step in (2, 5)]


def test_a_skipped_step_leaves_the_weights_as_they_were(student, hear, tmp_path):
    before = copy.deepcopy(student.model.state_dict())
    settings = SETTINGS.model_copy(update={"steps": 1})
    train(
        SupervisedStage(student, None),
        Stream([poisoned(hear(student), student.frontend)]),
        settings,
        tmp_path,
        seed=0,
    )
    for name, value in student.model.state_dict().items():
        assert torch.equal(before[name], value), name


@pytest.mark.parametrize("killed_after", [None, 3])
def test_too_many_skipped_steps_in_a_row_end_the_run_with_the_utterances(student, hear, tmp_path, killed_after):
    examples = hear(student)
    bad = poisoned(examples, student.frontend)
    batches = [examples, bad, bad[:2], bad[:1], examples]
    settings = SETTINGS.model_copy(update={"max_skipped_steps": 3, "checkpoint_every": 1})
    if killed_after:  # steps that were skipped before a kill count
        partial = settings.model_copy(update={"steps": killed_after})
        train(SupervisedStage(student, None), Stream(batches), partial, tmp_path, seed=0)
    with pytest.raises(InputError, match="not finite in 3 steps in a row, the last of them step 4 on utterances 0;"):
        train(SupervisedStage(student, None), Stream(batches), settings, tmp_path, seed=0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_a_run_behind_a_checkpoint_and_changes_nothing(student, hear, tmp_path, number):
    examples = hear(student)
    batches = [examples[:2], examples[2:], examples[1:4]]
    start = copy.deepcopy(student.model.state_dict())
    train(SupervisedStage(student, None), Stream(batches), SETTINGS, tmp_path / "whole", seed=3)
    whole = {name: value.clone() for name, value in student.model.state_dict().items()}

    class Signalling(Stream):
        def __iter__(self):
            for place, batch in enumerate(super().__iter__()):
                if place == 2:
                    signal.raise_signal(number)
                yield batch

    student.model.load_state_dict(start)
    handler = signal.getsignal(number)
    with pytest.raises(Interrupted, match="stopped after step 3") as caught:
        train(SupervisedStage(student, None), Signalling(batches), SETTINGS, tmp_path / "stopped", seed=3)
    assert caught.value.signal == number
    assert signal.getsignal(number) is handler
    assert (tmp_path / "stopped" / "checkpoints" / "step-3").exists()
    train(SupervisedStage(student, None), Stream(batches), SETTINGS, tmp_path / "stopped", seed=3)
    for name, value in whole.items():
        assert torch.equal(student.model.state_dict()[name], value), name
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


@pytest.fixture
def interruptible():
    """What a terminal gives; a shell has its background jobs ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_second_ctrl_c_is_obeyed_at_once(monkeypatch):
    monkeypatch.setattr("arkasr.train.signals.SECOND_CTRL_C_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt), StopSignals() as signals:  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        assert signals.received == signal.SIGINT
        time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second one was noted only")


@pytest.mark.usefixtures("interruptible")
def test_a_signal_that_comes_behind_the_last_step_is_not_lost(student, hear, tmp_path):
    def at_the_end(step, _values):
        if step == SETTINGS.steps:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(SupervisedStage(student, None), Stream([hear(student)]), SETTINGS, tmp_path, seed=0, on_step=at_the_end)
    assert (tmp_path / "checkpoints" / "step-6").exists()


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_signal_does_not_wait_for_an_evaluation_to_begin_and_none_is_left_out(student, hear, tmp_path, when):
    examples = hear(student)
    settings = SETTINGS.model_copy(update={"evaluate_every": 3})
    evaluated = []

    def evaluate(signalled=None):
        evaluated.append(signalled)
        if signalled:
            signal.raise_signal(signalled)
        return {"dev/error_rate": float(sum(value.sum() for value in student.model.state_dict().values()))}

    class Signalling(Stream):
        def __iter__(self):
            for place, batch in enumerate(super().__iter__()):
                if place == 2 and when == "before":
                    signal.raise_signal(signal.SIGTERM)
                yield batch

    def killing(step, _values):
        raise OSError("killed")

    start = copy.deepcopy(student.model.state_dict())
    train(SupervisedStage(student, None), Stream([examples]), settings, tmp_path / "whole", seed=3, evaluate=evaluate)
    student.model.load_state_dict(start)
    evaluated.clear()
    during = signal.SIGTERM if when == "during" else None
    with pytest.raises(Interrupted, match="stopped after step 3"):
        train(
            SupervisedStage(student, None),
            Signalling([examples]),
            settings,
            tmp_path / "stopped",
            seed=3,
            evaluate=lambda: evaluate(during),
        )
    assert len(evaluated) == (when == "during")
    for killed in (True, False):
        with pytest.raises(OSError, match="killed") if killed else nullcontext():
            train(
                SupervisedStage(student, None),
                Stream([examples]),
                settings,
                tmp_path / "stopped",
                seed=3,
                evaluate=evaluate,
                on_step=killing if killed else None,
            )
    whole, stopped = (read_metrics(tmp_path / run / "metrics.jsonl") for run in ("whole", "stopped"))
    for name in ("step", "loss", "dev/error_rate"):
        assert [line.get(name) for line in stopped] == [line.get(name) for line in whole], name


def test_the_newest_checkpoint_stays_where_a_damaged_one_is_newer(student, hear, tmp_path):
    settings = SETTINGS.model_copy(update={"keep_checkpoints": 1, "checkpoint_every": 2})
    train(
        SupervisedStage(student, None),
        Stream([hear(student)]),
        settings.model_copy(update={"keep_checkpoints": 2}),
        tmp_path,
        seed=0,
    )
    (tmp_path / "checkpoints" / "step-6" / "SHA256SUMS").write_text("")
    (tmp_path / "checkpoints" / "step-6.bak").mkdir()
    said = []
    shorter = settings.model_copy(update={"steps": 5})
    train(SupervisedStage(student, None), Stream([hear(student)]), shorter, tmp_path, seed=0, on_warning=said.append)
    assert said == [f"{tmp_path}/checkpoints/step-6: SHA256SUMS does not list {said[0].split('list ')[1]}"]
    places = {place.name for place in (tmp_path / "checkpoints").iterdir()}
    assert places == {"step-5", "step-6", "step-6.bak"}


def test_micro_batches_have_seeds_of_their_own():
    seeds = {micro_batch_seed(7, step, place) for step in range(20) for place in range(3000)}
    assert len(seeds) == 20 * 3000


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
