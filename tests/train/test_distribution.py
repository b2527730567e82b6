import json
import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from arkasr.cost import memory
from arkasr.cost.sizes import size_of
from arkasr.recognizers.ark_asr import build_ark_asr
from arkasr.train.distribution import gathered_weights, unsharded_weights
from arkasr.train.settings import ObjectiveSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from tests.models import noise_examples
from tests.train import uneven_processes


@pytest.fixture
def group():
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def shard(stage):
    for layer in [*stage.student.audio_modules[0].whisper.layers, *stage.student.decoder.layers]:
        fully_shard(layer)
    return fully_shard(stage)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return tmp_path_factory.mktemp("uneven")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The steps of one process."""
    return uneven_processes.ahead("none", tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def seen(places):
    path = places / "seen.json"
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, "-m", "tests.train.uneven_processes", str(path)]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300, check=True)
    return json.loads(path.read_text())


def test_a_rollout_gathers_every_layer_once_however_long_it_is(seen):
    (short, _), (long, _) = seen["short"], seen["long"]
    assert long["rollout/passes"] > short["rollout/passes"]
    assert long["gathers"] == short["gathers"] > 0


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_process_whose_rollouts_are_all_empty_waits_for_nobody_and_counts_for_nothing(
    seen, sharding, student, teacher
):
    first, second = seen[f"silent-{sharding}"]
    assert first["rollout/skipped_rate"] == 1
    assert "loss" not in first
    stage = DistillationStage(student, teacher, ObjectiveSettings(top_k=8, max_new_tokens=12))
    loss = stage(noise_examples(student, teacher, texts=["the red book", "two green", "mary met john"]), 0)
    (loss.total / loss.count).backward()
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in stage.parameters()])
    assert second["loss"] == pytest.approx((loss.total / loss.count).item(), rel=1e-5)
    for process in (first, second):
        assert process["train/gradient_norm"] == pytest.approx(norm.item(), rel=1e-4)


def test_a_student_in_shares_is_whole_only_while_it_writes_and_the_plan_knows(seen, vocabulary):
    student = build_ark_asr(uneven_processes.DEEP_STUDENT, vocabulary)
    layers = [*student.audio_modules[0].whisper.layers, *student.decoder.layers]
    weights = [sum(parameter.numel() for parameter in layer.parameters()) for layer in layers]
    size = size_of(student)
    at_once = size.parameters - sum(weights) + max(weights)
    assert seen["whole-sft"] == [at_once] * 2
    assert seen["whole-opd"] == [size.parameters] * 2
    # The plan counts the next layer, too, which comes while this one is at work.
    assert at_once + max(weights) == pytest.approx(memory.gathered(size), rel=0.05)


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_for_a_checkpoint_each_process_copies_half_and_together_everything(seen, sharding, student):
    first, second = seen[f"copied-{sharding}"]
    weights = {f"model.{name}": value.nbytes for name, value in student.model.named_parameters(prefix="model")}
    assert weights.keys() <= first.keys() | second.keys()
    whole = sum(first.values()) + sum(second.values())
    assert 3 * sum(weights.values()) <= whole < 3.02 * sum(weights.values())  # with two moments, and counters
    assert abs(sum(first.values()) - sum(second.values())) <= max(weights.values())
    if sharding == "none":
        assert not first.keys() & second.keys()


def test_how_much_the_teacher_can_answer_for_is_judged_over_all_processes_and_said_once(seen):
    """One process has no token that counts, the other none that does not: neither share is the run's."""
    assert seen["half-is-enough"] == [[[1, 2, 3, 4], None]] * 2
    (steps, said), (others_steps, others_said) = seen["half-is-too-little"]
    assert steps == others_steps != [1, 2, 3, 4]
    assert said.startswith("InputError: objective.min_mapped_share: the teacher can score 50% of the rollout tokens")
    assert others_said.startswith("ReportedByFirstRank: ")


@pytest.mark.parametrize("name", ["ahead-none", "ahead-full", "continued-full"])
def test_engines_of_several_processes_are_a_step_ahead_as_that_of_one(seen, undisturbed, name):
    assert seen[name]["losses"] == pytest.approx(undisturbed["losses"], rel=1e-5)
    assert seen[name]["left"] == {}


def test_what_two_processes_have_begun_is_used_by_one_that_continues(seen, undisturbed, places):
    continued = uneven_processes.ahead("none", places / "on-one")
    assert continued["losses"] == pytest.approx(undisturbed["losses"], rel=1e-5)
    assert continued["left"] == {}


def test_whole_weights_are_those_of_before_and_shares_again_afterwards(group, student):
    before = {name: value.clone() for name, value in student.model.state_dict().items()}
    stage = shard(SupervisedStage(student, None))
    stage(noise_examples(student), 0).total.backward()
    assert all(isinstance(parameter, DTensor) for parameter in stage.parameters())
    with unsharded_weights(stage):
        for name, value in student.model.named_parameters():
            assert not isinstance(value, DTensor)
            assert torch.equal(value, before[name]), name
    assert all(isinstance(parameter, DTensor) for parameter in stage.parameters())


def test_gathered_weights_are_plain_tensors_and_tied_ones_are_one(group, student):
    assert gathered_weights(student.model) is None
    before = {name: value.clone() for name, value in student.model.state_dict().items()}
    shard(SupervisedStage(student, None))
    gathered = gathered_weights(student.model)
    assert gathered.keys() == before.keys()
    for name, value in gathered.items():
        assert torch.equal(value, before[name]), name
    assert gathered["lm_head.weight"] is gathered["model.embed_tokens.weight"]
