"""A stage that continues another one does what one longer stage would have done."""

import copy
import shutil

import pytest
import torch

from arkasr.data.batches import DataPosition, DurationBatchSampler
from arkasr.data.manifests.manifest import read_rows
from arkasr.errors import InputError
from arkasr.train.continuation import Continuation
from arkasr.train.loop import train
from arkasr.train.schedule import rate_factor
from arkasr.train.settings import AugmentationSettings, ObjectiveSettings, OptimizationSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from arkasr.train.stream import BatchStream
from tests.train.stream import Heard, Stream

SETTINGS = OptimizationSettings(steps=7, batch_seconds=10, learning_rate=1e-2, warmup_steps=2, schedule="cosine")
FIRST, SECOND = (SETTINGS.model_copy(update={"steps": steps}) for steps in (3, 4))
AUGMENTATION = AugmentationSettings(time_stretch=0.1, join_share=0.5, token_noise=0.2)


def lines(folder):
    return read_rows(folder / "metrics.jsonl")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_parts_of_a_schedule_end_with_the_bits_of_the_whole(student, hear, tmp_path, optimizer):
    examples = hear(student)
    batches = [examples[:2], examples[2:], examples[1:4], examples[:1], examples[3:]]
    twin = copy.deepcopy(student)
    whole, first, second = (
        settings.model_copy(update={"optimizer": optimizer}) for settings in (SETTINGS, FIRST, SECOND)
    )
    train(SupervisedStage(student, AUGMENTATION), Stream(batches), whole, tmp_path / "whole", seed=3)

    train(SupervisedStage(twin, AUGMENTATION), Stream(batches), first, tmp_path / "first", seed=3, schedule_steps=7)
    ended = Continuation(tmp_path / "first", steps=3, steps_before=3, same_set=True)
    train(SupervisedStage(twin, AUGMENTATION), Stream(batches), second, tmp_path / "second", seed=3, continues=ended)

    for name, value in student.model.state_dict().items():
        assert torch.equal(twin.model.state_dict()[name], value), name
    parts = [*lines(tmp_path / "first"), *lines(tmp_path / "second")]
    for key in ("loss", "train/learning_rate"):
        assert [line[key] for line in parts] == [line[key] for line in lines(tmp_path / "whole")]


def test_opd_goes_on_with_the_batches_and_the_rate_of_an_opd_that_began_earlier(student, teacher, hear, tmp_path):
    examples = hear(student, teacher)
    durations = [float(example.utterance.duration) for example in examples]

    def stream():
        return BatchStream(Heard(examples), DurationBatchSampler(durations, max_audio_seconds=2.5, seed=5))

    def heard_by(stage):
        heard, loss = [], stage.loss
        stage.loss = lambda some, seed: heard.append(([e.utterance.id for e in some], seed)) or loss(some, seed)
        return heard

    twin = copy.deepcopy(student)
    whole = DistillationStage(student, teacher, ObjectiveSettings(top_k=8, max_new_tokens=6))
    heard_by_whole = heard_by(whole)
    train(whole, stream(), SETTINGS, tmp_path / "whole", seed=3)

    batches = Stream([examples[:2]])
    train(SupervisedStage(twin, None), batches, FIRST, tmp_path / "td", seed=3, schedule_steps=7)
    after = DistillationStage(twin, teacher, ObjectiveSettings(top_k=8, max_new_tokens=6))
    heard_after = heard_by(after)
    ended = Continuation(tmp_path / "td", steps=3, steps_before=3, same_set=False)
    train(after, stream(), SECOND, tmp_path / "opd", seed=3, continues=ended)

    assert heard_after == heard_by_whole[3:]
    rates = [line["train/learning_rate"] for line in lines(tmp_path / "opd")]
    assert rates == [line["train/learning_rate"] for line in lines(tmp_path / "whole")][3:]


def test_a_stage_whose_start_has_lost_its_last_checkpoint_says_so(student, hear, tmp_path):
    train(SupervisedStage(student, None), Stream([hear(student)]), FIRST, tmp_path / "first", seed=3)
    shutil.rmtree(tmp_path / "first" / "checkpoints" / "step-3")
    ended = Continuation(tmp_path / "first", steps=3, steps_before=3, same_set=True)
    with pytest.raises(InputError, match="step-3, is gone"):
        train(
            SupervisedStage(student, None), Stream([hear(student)]), SECOND, tmp_path / "next", seed=3, continues=ended
        )


def test_the_position_behind_some_batches_is_where_following_them_leads():
    sampler = DurationBatchSampler([0.5 + 0.1 * place for place in range(23)], max_audio_seconds=4.0, seed=2)
    followed = sampler.batches_from(DataPosition())
    assert sampler.position_after(0) == DataPosition()
    for batches in range(1, 25):
        _, reached = next(followed)
        assert sampler.position_after(batches) == reached


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup_steps", [0, 1, 3])
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_no_step_of_a_schedule_is_void_and_the_rate_rises_once_and_falls_once(schedule, warmup_steps, steps):
    settings = SETTINGS.model_copy(update={"schedule": schedule, "warmup_steps": warmup_steps, "steps": steps})
    rates = [rate_factor(step, steps, settings) for step in range(1, steps + 1)]
    assert all(0 < rate <= 1 for rate in rates)
    highest = rates.index(max(rates))
    assert rates[: highest + 1] == sorted(rates[: highest + 1])
    assert rates[highest:] == sorted(rates[highest:], reverse=True)
    if steps >= max(warmup_steps, 1):
        assert max(rates) == 1


def test_a_stage_that_goes_on_and_is_killed_in_its_middle_ends_with_the_bits_of_an_undisturbed_one(
    student, teacher, hear, tmp_path
):
    examples = hear(student, teacher)
    batches = [examples[:2], examples[2:], examples[1:4], examples[:1], examples[3:]]
    train(SupervisedStage(student, None), Stream(batches), FIRST, tmp_path / "td", seed=3, schedule_steps=7)
    ended = Continuation(tmp_path / "td", steps=3, steps_before=3, same_set=True)
    settings = SECOND.model_copy(update={"checkpoint_every": 1})

    class KilledError(Exception):
        pass

    def kill(step, _values):
        if step == 2:
            raise KilledError

    def go_on(recognizer, folder, on_step=None):
        objective = ObjectiveSettings(top_k=8, max_new_tokens=6)
        stage = DistillationStage(recognizer, teacher, objective, augmentation=AUGMENTATION)
        train(stage, Stream(batches), settings, tmp_path / folder, seed=3, continues=ended, on_step=on_step)

    victim, twin = copy.deepcopy(student), copy.deepcopy(student)
    go_on(student, "undisturbed")
    with pytest.raises(KilledError):
        go_on(victim, "killed", kill)
    go_on(twin, "killed")
    for name, value in student.model.state_dict().items():
        assert torch.equal(twin.model.state_dict()[name], value), name
    for key in ("loss", "train/learning_rate"):
        assert [line[key] for line in lines(tmp_path / "killed")] == [
            line[key] for line in lines(tmp_path / "undisturbed")
        ]


def test_a_checkpoint_of_another_order_is_refused(student, hear, tmp_path):
    shorter = FIRST.model_copy(update={"steps": 2})
    train(SupervisedStage(student, None), Stream([hear(student)]), shorter, tmp_path, seed=3)
    with pytest.raises(InputError, match="its checkpoint is of another order of the data, as an older version drew it"):
        train(SupervisedStage(student, None), Stream([hear(student)]), FIRST, tmp_path, seed=4)
