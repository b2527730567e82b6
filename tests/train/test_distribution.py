import json
import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from arkasr.train.distribution import gathered_weights, whole_weights
from arkasr.train.stages.sft import SupervisedStage
from tests.models import hear_noise


@pytest.fixture
def group():
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def shard(stage):
    for layer in [*stage.student.audio_modules[0].whisper.layers, *stage.student.decoder.layers]:
        fully_shard(layer)
    return fully_shard(stage)


def test_a_rollout_gathers_every_layer_once_however_long_it_is(tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "-m",
        "tests.train.count_gathers",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(tmp_path)], env=environment, timeout=300, check=True)
    short, long = (json.loads((tmp_path / f"{cap}.json").read_text()) for cap in (2, 24))
    assert long["passes"] > short["passes"]
    assert long["gathers"] == short["gathers"] > 0


def test_whole_weights_are_those_of_before_and_shares_again_afterwards(group, student):
    before = {name: value.clone() for name, value in student.model.state_dict().items()}
    stage = shard(SupervisedStage(student, None))
    stage(hear_noise(student), 0).total.backward()
    assert all(isinstance(parameter, DTensor) for parameter in stage.parameters())
    with whole_weights(stage):
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
