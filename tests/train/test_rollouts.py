"""Rollouts of an engine, decoded in the step that uses them or some steps before."""

import pytest

from arkasr.data.batches import DurationBatchSampler
from arkasr.recognizers.decoding import decode
from arkasr.train.loop import train
from arkasr.train.settings import ObjectiveSettings, RolloutSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from arkasr.train.stream import BatchStream
from tests.train.copy_engine import CopyEngine
from tests.train.runs import SETTINGS, assert_weights, kill_at, killed, losses, weights_of
from tests.train.stream import ExampleList, Stream

STEPS = 7
OPD = SETTINGS.model_copy(
    update={"steps": STEPS, "accumulation": 2, "schedule": "constant", "learning_rate": 1e-2, "checkpoint_every": 3}
)


@pytest.fixture
def examples(student, teacher, noise_examples, tmp_path):
    """Examples that the student was trained on, so that its rollouts have words and a stop token."""
    examples = noise_examples(student, teacher)
    settings = SETTINGS.model_copy(update={"steps": 60, "schedule": "constant"})
    train(SupervisedStage(student, None), Stream([examples]), settings, tmp_path / "student", seed=0)
    return examples


@pytest.fixture
def distil(student, teacher, examples, tmp_path):
    start = weights_of(student)

    def run(name, *, staleness=0, temperature=0.0, with_engine=True, killed_at=None):
        """Train from the start, or resume the run in the folder; returns the losses and the final weights."""
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
        sampler = DurationBatchSampler(durations, max_audio_seconds=2.5, seed=5)
        stream = BatchStream(ExampleList(examples), sampler, batches_per_step=OPD.accumulation)
        with killed():
            train(stage, stream, OPD, tmp_path / name, seed=0, on_step=kill_at(killed_at))
        stage.close()
        return [loss for _, loss in losses(tmp_path / name)], weights_of(student)

    return run


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_without_staleness_an_engine_gives_the_losses_of_the_students_own_decoding(distil, temperature):
    own, _ = distil("own", temperature=temperature, with_engine=False)
    with_engine, _ = distil("engine", temperature=temperature)
    assert with_engine == pytest.approx(own, rel=1e-5)


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_a_rollout_is_decoded_with_the_weights_of_staleness_updates_before(
    distil, student, examples, monkeypatch, staleness
):
    weights_of_step = {}
    rollouts = []
    original_loss = DistillationStage.loss

    def loss(stage, batch, seed):
        fingerprint = sum(parameter.sum().item() for parameter in student.model.parameters())
        weights_of_step.setdefault(fingerprint, weights_of(student))
        original_write = stage.rollouts.write

        def recording_write(*arguments):
            transcripts = original_write(*arguments)
            rollouts.append((len(weights_of_step) - 1, batch, transcripts.tokens))
            return transcripts

        with monkeypatch.context() as patch:
            patch.setattr(stage.rollouts, "write", recording_write)
            return original_loss(stage, batch, seed)

    monkeypatch.setattr(DistillationStage, "loss", loss)
    distil("run", staleness=staleness)
    assert [step for step, _, _ in rollouts] == [step for step in range(STEPS) for _ in range(OPD.accumulation)]
    weights = list(weights_of_step.values())
    different = 0
    for step, batch, tokens in rollouts:
        prompts = student.prompts(
            [example.features[student.frontend] for example in batch],
            [example.utterance.language for example in batch],
        )
        expected, current = (_decoded(student, weights[at], prompts) for at in (max(step - staleness, 0), step))
        assert [row.tolist() for row in tokens] == expected
        different += expected != current
    assert bool(different) == bool(staleness), "the test needs weights whose rollouts change from step to step"


def _decoded(student, weights, prompts):
    student.model.load_state_dict(weights)
    student.model.eval()
    return [tokens.tolist() for tokens in decode(student, prompts, max_new_tokens=24).tokens]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("staleness", [1, 2])
def test_a_resumed_run_uses_the_rollouts_that_were_pending(distil, student, staleness, temperature):
    options = {"staleness": staleness, "temperature": temperature}
    undisturbed, weights = distil("undisturbed", **options)
    distil("killed", **options, killed_at=5)
    resumed, _ = distil("killed", **options)
    assert resumed == undisturbed
    assert_weights(student, weights)
    on_policy, _ = distil("on policy", temperature=temperature)
    assert on_policy != undisturbed
