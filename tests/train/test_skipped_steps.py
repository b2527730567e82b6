"""Steps whose loss is not finite."""

import copy

import pytest

from arkasr.errors import InputError
from arkasr.train.loop import train
from arkasr.train.stages.sft import SupervisedStage
from tests.train.runs import SETTINGS, assert_weights, logged, weights_of
from tests.train.stream import Stream


def with_nan(examples, frontend):
    """The same examples, but all features of the first one are NaN."""
    examples = copy.deepcopy(examples)
    examples[0].features[frontend][:] = float("nan")
    return examples


def test_a_step_that_is_not_finite_is_skipped_and_counted_with_a_warning(student, noise_examples, tmp_path):
    examples = noise_examples(student)
    batches = [examples, with_nan(examples, student.frontend), examples]
    warnings = []
    train(SupervisedStage(student, None), Stream(batches), SETTINGS, tmp_path, seed=0, on_warning=warnings.append)
    assert all(value.isfinite().all() for value in student.model.state_dict().values())
    lines = logged(tmp_path, "train/skipped", "loss")
    assert [skipped for skipped, _ in lines] == [0, 1, 0, 0, 1, 0]
    assert [loss is None for _, loss in lines] == [False, True, False, False, True, False]
    assert warnings == [f"step {step} skipped: its loss or gradient is not finite" for step in (2, 5)]


def test_a_skipped_step_does_not_change_the_weights(student, noise_examples, tmp_path):
    before = weights_of(student)
    batches = [with_nan(noise_examples(student), student.frontend)]
    train(SupervisedStage(student, None), Stream(batches), SETTINGS.model_copy(update={"steps": 1}), tmp_path, seed=0)
    assert_weights(student, before)


@pytest.mark.parametrize("killed_after", [None, 3])
def test_too_many_skipped_steps_in_a_row_end_the_run_and_name_the_utterances(
    student, noise_examples, tmp_path, killed_after
):
    examples = noise_examples(student)
    bad = with_nan(examples, student.frontend)
    batches = [examples, bad, bad[:2], bad[:1], examples]
    settings = SETTINGS.model_copy(update={"max_skipped_steps": 3, "checkpoint_every": 1})
    if killed_after:  # steps skipped before the kill count
        shorter = settings.model_copy(update={"steps": killed_after})
        train(SupervisedStage(student, None), Stream(batches), shorter, tmp_path, seed=0)
    with pytest.raises(InputError, match="not finite in 3 steps in a row, the last of them step 4 on utterances 0;"):
        train(SupervisedStage(student, None), Stream(batches), settings, tmp_path, seed=0)
