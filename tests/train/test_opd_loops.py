import pytest
import torch

from arkasr.distill.fused import divergence_from_states
from arkasr.train.loop import train
from arkasr.train.stages.opd import DistillationStage
from tests.train.opd import OBJECTIVE, repeated, set_rollouts, text_ids, tokens_before_the_loop
from tests.train.runs import SETTINGS
from tests.train.stream import Stream


@pytest.mark.parametrize("looping", ["mask", "keep"])
def test_a_loop_is_counted_and_masked_after_its_second_start(student, teacher, noise_examples, looping):
    examples = noise_examples(student, teacher)[:2]
    stage = DistillationStage(student, teacher, OBJECTIVE.model_copy(update={"looping": looping}))
    set_rollouts(stage, ["red book in", repeated("red book in", 9)])
    loss = stage(examples, seed=0)
    values = loss.metrics.values()
    assert values["rollout/looping"] == 0.5
    assert values["teacher/paired_share"] == 1  # a masked loop does not count as unpaired
    once, repeated_tokens = len(text_ids(student, "red book in")), len(text_ids(student, repeated("red book in", 9)))
    in_loop = repeated_tokens - tokens_before_the_loop(student) - 1
    assert loss.count == once + repeated_tokens + 2 - (in_loop if looping == "mask" else 0)


def test_a_masked_loop_has_no_loss(student, teacher, noise_examples, monkeypatch):
    """Eight and nine repetitions have the same loss at every compared position except the stop token."""
    examples = noise_examples(student, teacher)[:1]
    stage = DistillationStage(student, teacher, OBJECTIVE)
    results = []

    def recorded(*arguments):
        results.append(divergence_from_states(*arguments))
        return results[-1]

    monkeypatch.setattr("arkasr.train.stages.opd.divergence_from_states", recorded)
    for repetitions in (8, 9):
        set_rollouts(stage, [repeated("red book in", repetitions)])
        stage(examples, seed=0)
    shorter, longer = results
    compared = tokens_before_the_loop(student) + 1
    for result in results:
        assert result.valid.nonzero().flatten().tolist() == [*range(compared), len(result.valid) - 1]
        assert result.per_position[compared:-1].eq(0).all()
    torch.testing.assert_close(shorter.per_position[:compared], longer.per_position[:compared])


def test_a_growing_share_of_loops_is_reported_during_training(student, teacher, noise_examples, tmp_path):
    examples = noise_examples(student, teacher)[:2]
    stage = DistillationStage(student, teacher, OBJECTIVE)
    set_rollouts(stage, ["red book in", "red book in"])
    remarks = []

    def on_step(step, _values):
        if step == 20:
            set_rollouts(stage, [repeated("red book in", 9)] * 2)

    settings = SETTINGS.model_copy(update={"steps": 40, "learning_rate": 1e-5})
    train(stage, Stream([examples]), settings, tmp_path, seed=0, on_step=on_step, on_warning=remarks.append)
    assert remarks
    assert "of the rollouts of the last 20 steps loop or reach max_new_tokens, up from 0.0%" in remarks[0]
