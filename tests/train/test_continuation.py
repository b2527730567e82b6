"""A stage that continues another one has the result of one longer stage."""

import copy
import shutil

import pytest

from arkasr.data.batches import DataPosition, DurationBatchSampler
from arkasr.errors import InputError
from arkasr.train.continuation import Continuation
from arkasr.train.loop import train
from arkasr.train.schedule import rate_factor
from arkasr.train.settings import AugmentationSettings, ObjectiveSettings, OptimizationSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from arkasr.train.stream import BatchStream
from tests.train.runs import KilledError, assert_weights, kill_at, logged, weights_of
from tests.train.stream import ExampleList, Stream

SETTINGS = OptimizationSettings(steps=7, batch_seconds=10, learning_rate=1e-2, warmup_steps=2, schedule="cosine")
FIRST, SECOND = (SETTINGS.model_copy(update={"steps": steps}) for steps in (3, 4))
AUGMENTATION = AugmentationSettings(time_stretch=0.1, join_share=0.5, token_noise=0.2)


def losses_and_rates(*folders):
    return [step for folder in folders for step in logged(folder, "loss", "train/learning_rate")]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_stages_with_one_schedule_end_with_the_bits_of_one_stage(student, noise_examples, tmp_path, optimizer):
    examples = noise_examples(student)
    batches = [examples[:2], examples[2:], examples[1:4], examples[:1], examples[3:]]
    twin = copy.deepcopy(student)
    one, first, second = (
        settings.model_copy(update={"optimizer": optimizer}) for settings in (SETTINGS, FIRST, SECOND)
    )
    train(SupervisedStage(student, AUGMENTATION), Stream(batches), one, tmp_path / "one", seed=3)

    train(SupervisedStage(twin, AUGMENTATION), Stream(batches), first, tmp_path / "first", seed=3, schedule_steps=7)
    finished = Continuation(tmp_path / "first", steps=3, steps_before=3, same_set=True)
    stage = SupervisedStage(twin, AUGMENTATION)
    train(stage, Stream(batches), second, tmp_path / "second", seed=3, continues=finished)

    assert_weights(twin, weights_of(student))
    assert losses_and_rates(tmp_path / "first", tmp_path / "second") == losses_and_rates(tmp_path / "one")


def test_opd_continues_with_the_batches_and_rates_of_an_opd_that_began_earlier(
    student, teacher, noise_examples, tmp_path
):
    examples = noise_examples(student, teacher)
    durations = [float(example.utterance.duration) for example in examples]

    def stream():
        return BatchStream(ExampleList(examples), DurationBatchSampler(durations, max_audio_seconds=2.5, seed=5))

    def record_batches(stage):
        batches, loss = [], stage.loss
        stage.loss = lambda batch, seed: batches.append(([e.utterance.id for e in batch], seed)) or loss(batch, seed)
        return batches

    twin = copy.deepcopy(student)
    one = DistillationStage(student, teacher, ObjectiveSettings(top_k=8, max_new_tokens=6))
    expected_batches = record_batches(one)
    train(one, stream(), SETTINGS, tmp_path / "one", seed=3)

    train(SupervisedStage(twin, None), Stream([examples[:2]]), FIRST, tmp_path / "td", seed=3, schedule_steps=7)
    second = DistillationStage(twin, teacher, ObjectiveSettings(top_k=8, max_new_tokens=6))
    batches = record_batches(second)
    finished = Continuation(tmp_path / "td", steps=3, steps_before=3, same_set=False)
    train(second, stream(), SECOND, tmp_path / "opd", seed=3, continues=finished)

    assert batches == expected_batches[3:]
    rate = "train/learning_rate"
    assert logged(tmp_path / "opd", rate) == logged(tmp_path / "one", rate)[3:]


def test_a_missing_last_checkpoint_of_the_finished_stage_is_an_error(student, noise_examples, tmp_path):
    train(SupervisedStage(student, None), Stream([noise_examples(student)]), FIRST, tmp_path / "first", seed=3)
    shutil.rmtree(tmp_path / "first" / "checkpoints" / "step-3")
    finished = Continuation(tmp_path / "first", steps=3, steps_before=3, same_set=True)
    stage = SupervisedStage(student, None)
    with pytest.raises(InputError, match="step-3, is missing"):
        train(stage, Stream([noise_examples(student)]), SECOND, tmp_path / "next", seed=3, continues=finished)


def test_the_position_after_some_batches_is_the_one_that_following_them_reaches():
    sampler = DurationBatchSampler([0.5 + 0.1 * index for index in range(23)], max_audio_seconds=4.0, seed=2)
    followed = sampler.batches_from(DataPosition())
    assert sampler.position_after(0) == DataPosition()
    for batches in range(1, 25):
        _, reached = next(followed)
        assert sampler.position_after(batches) == reached


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup_steps", [0, 1, 3])
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_every_step_of_a_schedule_has_a_rate_that_rises_once_and_falls_once(schedule, warmup_steps, steps):
    settings = SETTINGS.model_copy(update={"schedule": schedule, "warmup_steps": warmup_steps, "steps": steps})
    rates = [rate_factor(step, steps, settings) for step in range(1, steps + 1)]
    assert all(0 < rate <= 1 for rate in rates)
    highest = rates.index(max(rates))
    assert rates[: highest + 1] == sorted(rates[: highest + 1])
    assert rates[highest:] == sorted(rates[highest:], reverse=True)
    if steps >= max(warmup_steps, 1):
        assert max(rates) == 1


def test_a_continuing_stage_that_is_killed_and_resumed_ends_with_the_bits_of_an_undisturbed_one(
    student, teacher, noise_examples, tmp_path
):
    examples = noise_examples(student, teacher)
    batches = [examples[:2], examples[2:], examples[1:4], examples[:1], examples[3:]]
    train(SupervisedStage(student, None), Stream(batches), FIRST, tmp_path / "td", seed=3, schedule_steps=7)
    finished = Continuation(tmp_path / "td", steps=3, steps_before=3, same_set=True)
    settings = SECOND.model_copy(update={"checkpoint_every": 1})

    def continue_with(recognizer, folder, on_step=None):
        objective = ObjectiveSettings(top_k=8, max_new_tokens=6)
        stage = DistillationStage(recognizer, teacher, objective, augmentation=AUGMENTATION)
        train(stage, Stream(batches), settings, folder, seed=3, continues=finished, on_step=on_step)

    victim, resumed = copy.deepcopy(student), copy.deepcopy(student)
    continue_with(student, tmp_path / "undisturbed")
    with pytest.raises(KilledError):
        continue_with(victim, tmp_path / "killed", kill_at(2))
    continue_with(resumed, tmp_path / "killed")
    assert_weights(resumed, weights_of(student))
    assert losses_and_rates(tmp_path / "killed") == losses_and_rates(tmp_path / "undisturbed")


def test_a_checkpoint_of_another_order_is_refused(student, noise_examples, tmp_path):
    shorter = FIRST.model_copy(update={"steps": 2})
    train(SupervisedStage(student, None), Stream([noise_examples(student)]), shorter, tmp_path, seed=3)
    with pytest.raises(
        InputError, match="its checkpoint was written by an older arkasr version, which ordered the data differently"
    ):
        train(SupervisedStage(student, None), Stream([noise_examples(student)]), FIRST, tmp_path, seed=4)
