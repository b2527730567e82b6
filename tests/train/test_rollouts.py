"""Rollouts of an engine beside the trainer, in the step that uses them and steps ahead of it."""

import copy

import pytest
import torch

from arkasr.data.batches import DurationBatchSampler
from arkasr.recognizers.decoding import decode
from arkasr.train.loop import train
from arkasr.train.metrics import read_metrics
from arkasr.train.settings import ObjectiveSettings, RolloutSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from arkasr.train.stream import BatchStream
from tests.train.copy_engine import CopyEngine
from tests.train.stream import Heard, Stream
from tests.train.test_loop import SETTINGS

STEPS = 7
OPD = SETTINGS.model_copy(
    update={"steps": STEPS, "accumulation": 2, "schedule": "constant", "learning_rate": 1e-2, "checkpoint_every": 3}
)


class KilledError(Exception):
    pass


@pytest.fixture
def examples(student, teacher, hear, tmp_path):
    """What the student has learned, so that its rollouts have words and an end."""
    examples = hear(student, teacher)
    settings = SETTINGS.model_copy(update={"steps": 60, "schedule": "constant"})
    train(SupervisedStage(student, None), Stream([examples]), settings, tmp_path / "student", seed=0)
    return examples


@pytest.fixture
def distil(student, teacher, examples, tmp_path):
    start = copy.deepcopy(student.model.state_dict())

    def run(name, *, staleness=0, temperature=0.0, with_engine=True, killed_behind=None):
        """Train, from the start or from what is in the folder; the losses of all steps and the final weights."""
        student.model.load_state_dict(start)
        engine = CopyEngine(student) if with_engine else None
        objective = ObjectiveSettings(
            top_k=8,
            max_new_tokens=24,
            rollout_temperature=temperature,
            rollouts=RolloutSettings(engine="vllm" if with_engine else "own", staleness=staleness),
        )
        stage = DistillationStage(student, teacher, objective, engine=engine)
        durations = [example.utterance.duration for example in examples]
        stream = BatchStream(
            Heard(examples), DurationBatchSampler(durations, max_audio_seconds=2.5, seed=5), per_step=OPD.accumulation
        )

        def on_step(step, _values):
            if step == killed_behind:
                raise KilledError

        try:
            train(stage, stream, OPD, tmp_path / name, seed=0, on_step=on_step)
        except KilledError:
            assert killed_behind
        stage.close()
        losses = [line["loss"] for line in read_metrics(tmp_path / name / "metrics.jsonl")]
        return losses, {key: value.clone() for key, value in student.model.state_dict().items()}

    return run


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_an_engine_that_is_never_behind_takes_the_steps_of_the_students_own_rollouts(distil, temperature):
    own, _ = distil("own", temperature=temperature, with_engine=False)
    beside, _ = distil("beside", temperature=temperature)
    assert beside == pytest.approx(own, rel=1e-5)


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_a_rollout_is_written_with_the_weights_of_so_many_updates_before(
    distil, student, examples, monkeypatch, staleness
):
    weights = {}
    written = []
    write = DistillationStage.loss

    def loss(stage, heard, seed):
        updates = sum(parameter.sum().item() for parameter in student.model.parameters())
        weights.setdefault(updates, copy.deepcopy(student.model.state_dict()))
        asked = stage.rollouts.write

        def watched(*arguments):
            transcripts = asked(*arguments)
            written.append((len(weights) - 1, heard, transcripts.tokens))
            return transcripts

        with monkeypatch.context() as patch:
            patch.setattr(stage.rollouts, "write", watched)
            return write(stage, heard, seed)

    monkeypatch.setattr(DistillationStage, "loss", loss)
    distil("run", staleness=staleness)
    assert [step for step, _, _ in written] == [step for step in range(STEPS) for _ in range(OPD.accumulation)]
    every = list(weights.values())
    differ = 0
    for step, heard, tokens in written:
        prompts = student.prompts(
            [example.features[student.frontend] for example in heard],
            [example.utterance.language for example in heard],
        )
        then, now = (_decoded(student, every[place], prompts) for place in (max(step - staleness, 0), step))
        assert [row.tolist() for row in tokens] == then
        differ += then != now
    assert bool(differ) == bool(staleness), "the weights of two steps must be worth telling apart"


def _decoded(student, weights, prompts):
    student.model.load_state_dict(weights)
    student.model.eval()
    return [tokens.tolist() for tokens in decode(student, prompts, max_new_tokens=24).tokens]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("staleness", [1, 2])
def test_a_killed_run_has_the_rollouts_that_were_under_way(distil, staleness, temperature):
    options = {"staleness": staleness, "temperature": temperature}
    whole, weights = distil("whole", **options)
    distil("killed", **options, killed_behind=5)
    losses, resumed = distil("killed", **options)
    assert losses == whole
    for name, value in weights.items():
        assert torch.equal(value, resumed[name]), name
    on_policy, _ = distil("on policy", temperature=temperature)
    assert on_policy != whole
