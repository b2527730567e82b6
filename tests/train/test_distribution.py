"""Training on two processes, with replicated and with sharded weights."""

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
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("uneven")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The losses of one process."""
    return uneven_processes.prefetched("none", tmp_path_factory.mktemp("one"))["losses"]


@pytest.fixture(scope="module")
def measured(folder):
    """What `uneven_processes` measured on two processes."""
    path = folder / "measured.json"
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, "-m", "tests.train.uneven_processes", str(path)]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300, check=True)
    return json.loads(path.read_text())


def test_a_rollout_gathers_every_layer_once_regardless_of_its_length(measured):
    (short, _), (long, _) = measured["short"], measured["long"]
    assert long["rollout/passes"] > short["rollout/passes"]
    assert long["gathers"] == short["gathers"] > 0


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_process_with_only_empty_rollouts_takes_part_without_adding_to_loss_or_gradient(
    measured, sharding, student, teacher
):
    first, second = measured[f"silent-{sharding}"]
    assert first["rollout/skipped_rate"] == 1
    assert "loss" not in first
    stage = DistillationStage(student, teacher, ObjectiveSettings(top_k=8, max_new_tokens=12))
    loss = stage(noise_examples(student, teacher, texts=["the red book", "two green", "mary met john"]), 0)
    (loss.total / loss.count).backward()
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in stage.parameters()])
    assert second["loss"] == pytest.approx((loss.total / loss.count).item(), rel=1e-5)
    for process in (first, second):
        assert process["train/gradient_norm"] == pytest.approx(norm.item(), rel=1e-4)


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_segments_in_only_one_process_give_the_gradient_of_one_process_with_all_texts(measured, sharding):
    stage, _ = uneven_processes.segments_stage(uneven_processes.SEGMENT_TEXTS)
    # In each process, the noise is that of a first utterance.
    examples = [uneven_processes.segments_stage([text])[1][0] for text in uneven_processes.SEGMENT_TEXTS]
    loss = stage(examples, 0)
    (loss.total / loss.count).backward()
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in stage.parameters()])
    with_segments, without = measured[f"segments-{sharding}"]
    assert with_segments["support/segments"] > 0 == without["support/segments"]
    for process in (with_segments, without):
        assert process["train/gradient_norm"] == pytest.approx(norm.item(), rel=1e-4)


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_labels_in_only_one_process_give_the_gradient_of_both_losses(measured, sharding):
    norms = []
    for has_label in (True, False):
        stages = [uneven_processes.labels_stage(rank) for rank in range(2)]
        stages[1][0].student.model = stages[0][0].student.model
        if not has_label:
            stages[0][0].rollouts.drafts = {}
        losses = [stage(examples, 0) for stage, examples in stages]
        model = stages[0][0].student.model
        (sum(loss.total for loss in losses) / sum(loss.count for loss in losses)).backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())
    assert norms[0] != pytest.approx(norms[1], rel=0.01)
    labelled, unlabelled = measured[f"labels-{sharding}"]
    assert (labelled["label/share"], unlabelled["label/share"]) == (1, 0)
    for process in (labelled, unlabelled):
        assert process["train/gradient_norm"] == pytest.approx(norms[0], rel=1e-4)
        assert not process["interrupted"]


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_process_without_scores_runs_the_passes_of_the_labels_with_the_others(measured, sharding):
    assert [process["interrupted"] for process in measured[f"interrupted-labels-{sharding}"]] == [True, True]


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_give_the_gradient_of_one_with_a_whisper_student(measured, sharding):
    stage, examples = uneven_processes.whisper_stage()
    loss = stage(examples, 0)
    (loss.total / loss.count).backward()
    trained = [parameter.grad for parameter in stage.parameters() if parameter.requires_grad]
    norm = torch.nn.utils.get_total_norm(trained)
    for process in measured[f"whisper-{sharding}"]:
        assert process["train/gradient_norm"] == pytest.approx(norm.item(), rel=1e-4)


def test_a_sharded_student_is_unsharded_only_during_rollouts_and_the_plan_counts_that(measured, vocabulary):
    student = build_ark_asr(uneven_processes.DEEP_STUDENT, vocabulary)
    layers = [*student.audio_modules[0].whisper.layers, *student.decoder.layers]
    weights = [sum(parameter.numel() for parameter in layer.parameters()) for layer in layers]
    size = size_of(student)
    unsharded = size.parameters - sum(weights) + max(weights)
    assert measured["unsharded-sft"] == [unsharded] * 2
    assert measured["unsharded-opd"] == [size.parameters] * 2
    # The plan also counts the next layer, which FSDP gathers while this one computes.
    assert unsharded + max(weights) == pytest.approx(memory.gathered(size), rel=0.05)


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_each_process_copies_half_of_a_checkpoint_and_together_they_copy_all(measured, sharding, student):
    first, second = measured[f"checkpoint-{sharding}"]
    weights = {f"model.{name}": value.nbytes for name, value in student.model.named_parameters(prefix="model")}
    assert weights.keys() <= first.keys() | second.keys()
    total = sum(first.values()) + sum(second.values())
    # Weights, two moments and a few counters.
    assert 3 * sum(weights.values()) <= total < 3.02 * sum(weights.values())
    assert abs(sum(first.values()) - sum(second.values())) <= max(weights.values())
    if sharding == "none":
        assert not first.keys() & second.keys()


def test_the_share_of_scorable_tokens_is_that_of_all_processes_and_its_error_appears_once(measured):
    assert measured["half-is-enough"] == [[[1, 2, 3, 4], None]] * 2
    (steps, error), (steps_of_second, error_of_second) = measured["half-is-too-little"]
    assert steps == steps_of_second != [1, 2, 3, 4]
    assert error.startswith("InputError: objective.min_paired_share: the teacher can score 50% of the rollout tokens")
    assert error_of_second.startswith("ReportedByFirstRank: ")


@pytest.mark.parametrize("name", ["prefetched-none", "prefetched-full", "resumed-full"])
def test_prefetched_rollouts_of_two_processes_give_the_losses_of_one(measured, one_process, name):
    assert_near(measured[name]["losses"], one_process)
    assert measured[name]["pending"] == {}


def test_one_process_resumes_with_the_pending_rollouts_of_two(measured, one_process, folder):
    resumed = uneven_processes.prefetched("none", folder / "on-one")
    assert_near(resumed["losses"], one_process)
    assert resumed["pending"] == {}


def assert_near(losses, expected):
    for found, wanted in zip(losses, expected, strict=True):
        assert found == pytest.approx(wanted, rel=1e-5)


def test_unsharded_weights_have_their_values_and_are_sharded_again_afterwards(group, student):
    before = {name: value.clone() for name, value in student.model.state_dict().items()}
    stage = shard(SupervisedStage(student, None))
    stage(noise_examples(student), 0).total.backward()
    assert all(isinstance(parameter, DTensor) for parameter in stage.parameters())
    with unsharded_weights(stage):
        for name, value in student.model.named_parameters():
            assert not isinstance(value, DTensor)
            assert torch.equal(value, before[name]), name
    assert all(isinstance(parameter, DTensor) for parameter in stage.parameters())


def test_gathered_weights_are_plain_tensors_and_tied_weights_stay_tied(group, student):
    assert gathered_weights(student.model) is None
    before = {name: value.clone() for name, value in student.model.state_dict().items()}
    shard(SupervisedStage(student, None))
    gathered = gathered_weights(student.model)
    assert gathered.keys() == before.keys()
    for name, value in gathered.items():
        assert torch.equal(value, before[name]), name
    assert gathered["lm_head.weight"] is gathered["model.embed_tokens.weight"]
