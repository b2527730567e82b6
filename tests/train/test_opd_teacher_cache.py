"""OPD with a cache of the teacher's answers: the losses do not depend on what the cache holds."""

import copy
import shutil

import pytest
import torch

from arkasr.recipe.presets import build_preset
from arkasr.teacher.in_process import InProcessTeacher
from arkasr.teacher.teacher_cache import TeacherCache
from arkasr.train.loop import train
from arkasr.train.stages.opd import DistillationStage
from tests.train.opd import OBJECTIVE, overfit
from tests.train.runs import SETTINGS, assert_weights, kill_at, killed, logged, losses, weights_of
from tests.train.stream import Stream

MIB = 2**20
LEARNING_RATE = 1e-3  # so low that rollouts stay the same


def damage(folder):
    for path in folder.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])


CHANGES_WHILE_STOPPED = {"kept": lambda folder: None, "wiped": shutil.rmtree, "damaged": damage}


@pytest.fixture
def run(student, vocabulary, noise_examples, tmp_path):
    """Trains a copy of one student for six steps, in batches that mix the utterances differently."""
    torch.manual_seed(1)
    teacher = build_preset("ark-asr-tiny", {}, vocabulary)
    examples = noise_examples(student, teacher)
    overfit(student, examples, tmp_path / "student")
    batches = [examples[:2], examples[2:], examples[1:4], examples]
    settings = SETTINGS.model_copy(update={"checkpoint_every": 1, "learning_rate": LEARNING_RATE})

    def run(name, *, cache="cache", keeps_states, limit=MIB, killed_step=None):
        trained = copy.deepcopy(student)
        answers = TeacherCache(teacher, tmp_path / cache, limit, keeps_states=keeps_states) if cache else None
        stage = DistillationStage(trained, InProcessTeacher(teacher, cache=answers), OBJECTIVE)
        with killed():
            train(stage, Stream(batches), settings, tmp_path / name, seed=0, on_step=kill_at(killed_step))
        return trained

    return run


@pytest.mark.parametrize("keeps_states", [False, True])
@pytest.mark.parametrize("change", CHANGES_WHILE_STOPPED.values(), ids=CHANGES_WHILE_STOPPED.keys())
def test_a_killed_and_resumed_run_has_the_bits_of_an_undisturbed_one(run, tmp_path, keeps_states, change):
    undisturbed = run("undisturbed", keeps_states=keeps_states, cache="undisturbed-cache")
    run("killed", keeps_states=keeps_states, killed_step=4)
    change(tmp_path / "cache")
    resumed = run("killed", keeps_states=keeps_states)
    assert_weights(resumed, weights_of(undisturbed))
    assert losses(tmp_path / "killed") == losses(tmp_path / "undisturbed")


@pytest.mark.parametrize("keeps_states", [False, True])
def test_a_filled_a_small_and_no_cache_give_the_same_losses(run, tmp_path, keeps_states):
    for name, limit in (("cold", MIB), ("warm", MIB), ("small", 4_000)):
        cache = "small-cache" if name == "small" else "cache"
        run(name, cache=cache, limit=limit, keeps_states=keeps_states)
    run("without", cache=None, keeps_states=False)
    cold, warm = ([share for (share,) in logged(tmp_path / name, "teacher/cached_share")] for name in ("cold", "warm"))
    assert cold[:2] == [0, 0]
    assert sum(warm) > sum(cold) > 0
    assert losses(tmp_path / "warm") == losses(tmp_path / "small") == losses(tmp_path / "cold")
    assert logged(tmp_path / "without", "teacher/cached_share") == [(None,)] * 6
    # Without a cache the teacher computes in batches, which round differently.
    for (_, one), (_, other) in zip(losses(tmp_path / "cold"), losses(tmp_path / "without"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
