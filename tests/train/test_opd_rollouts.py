import copy
from dataclasses import replace

import pytest
import torch

from arkasr.recognizers.decoding import decode
from arkasr.train.augment import join_utterances
from arkasr.train.loop import train
from arkasr.train.rollout_cache import RolloutCache
from arkasr.train.settings import AugmentationSettings
from arkasr.train.stages.opd import DistillationStage
from tests.train.opd import OBJECTIVE, SilentStudent, overfit, set_rollouts
from tests.train.runs import SETTINGS
from tests.train.stream import Stream


def test_an_empty_rollout_falls_back_to_the_reference_or_is_skipped(student, teacher, noise_examples):
    examples = noise_examples(student, teacher)
    unlabelled = [replace(e, utterance=replace(e.utterance, text=None)) for e in examples[:2]]
    stage = DistillationStage(SilentStudent(student.model, student.processor), teacher, OBJECTIVE)
    values = stage([*unlabelled, *examples[2:]], seed=0).metrics.values()
    assert values["rollout/empty"] == 1
    assert values["rollout/skipped_rate"] == pytest.approx(2 / 5)
    assert values["rollout/fallback_rate"] == pytest.approx(3 / 5)


def test_a_batch_of_empty_rollouts_has_a_zero_gradient(student, teacher, noise_examples):
    unlabelled = [replace(e, utterance=replace(e.utterance, text=None)) for e in noise_examples(student, teacher)]
    loss = DistillationStage(SilentStudent(student.model, student.processor), teacher, OBJECTIVE)(unlabelled, seed=0)
    assert loss.count == 0
    loss.total.backward()
    assert all(p.grad is None or not p.grad.any() for p in student.model.parameters())


def loss_and_gradients(stage, examples):
    stage.zero_grad()
    loss = stage(examples, seed=3)
    loss.total.backward()
    return loss, [parameter.grad.clone() for parameter in stage.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_drafts_change_the_decoder_passes_but_not_the_loss(student, teacher, noise_examples, tmp_path, temperature):
    examples = noise_examples(student, teacher)
    overfit(student, examples, tmp_path)
    unlabelled = [replace(e, utterance=replace(e.utterance, text=None)) for e in examples]
    objective = OBJECTIVE.model_copy(update={"rollout_temperature": temperature, "max_new_tokens": 30})
    expected, gradients = loss_and_gradients(DistillationStage(student, teacher, objective), unlabelled)
    drafts = {e.utterance.id: e.utterance.text for e in examples}
    stages = {
        "drafts": (DistillationStage(student, teacher, objective, drafts), unlabelled),
        "own texts": (DistillationStage(student, teacher, objective), examples),
        "nonsense": (
            DistillationStage(student, teacher, objective, dict.fromkeys(drafts, "no such words")),
            unlabelled,
        ),
    }
    passes = {}
    for name, (stage, batch) in stages.items():
        stage.train()
        found, ours = loss_and_gradients(stage, batch)
        assert found.count == expected.count
        assert found.total.item() == pytest.approx(expected.total.item(), rel=1e-4)
        for one, other in zip(ours, gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
        passes[name] = found.metrics.values()["rollout/passes"]
        stage.add_rollouts(stage.take_new_rollouts())
        again = stage(batch, seed=3).metrics.values()
        if expected.metrics.values()["rollout/stopped"] == 1:
            assert again["rollout/passes"] == 1, "the last rollout is the best draft"
        assert again["rollout/drafted_share"] == 1
    if not temperature:
        assert passes["drafts"] == passes["own texts"] < expected.metrics.values()["rollout/passes"]


def test_sampled_rollouts_depend_on_the_seed(student, teacher, noise_examples):
    objective = OBJECTIVE.model_copy(update={"rollout_temperature": 1.0})
    stage = DistillationStage(student, teacher, objective)
    examples = noise_examples(student, teacher)
    totals = [stage(examples, seed=seed).total.item() for seed in (0, 0, 1)]
    assert totals[0] == totals[1] != totals[2]


def test_a_resumed_run_has_the_same_rollout_cache_and_weights(student, teacher, noise_examples, tmp_path):
    examples = noise_examples(student, teacher)
    overfit(student, examples, tmp_path / "student")
    start = copy.deepcopy(student.model.state_dict())
    batches = [examples[:3], examples[2:]]

    def run(folder, steps):
        student.model.load_state_dict(start)
        stage = DistillationStage(student, teacher, OBJECTIVE.model_copy(update={"max_new_tokens": 30}))
        settings = SETTINGS.model_copy(update={"steps": steps, "checkpoint_every": 3, "schedule": "constant"})
        train(stage, Stream(batches), settings, folder, seed=0)
        return {name: value.clone() for name, value in student.model.state_dict().items()}, stage.extra_state()

    uninterrupted, memory = run(tmp_path / "uninterrupted", 7)
    run(tmp_path / "killed", 3)
    resumed, memory_of_resumed = run(tmp_path / "killed", 7)
    assert memory["token_lengths"].numel() > 1
    for name, value in memory.items():
        assert torch.equal(value, memory_of_resumed[name])
    for name, value in uninterrupted.items():
        assert torch.equal(value, resumed[name]), name


def test_the_oldest_rollouts_are_dropped_first():
    cache = RolloutCache(max_utterances=2)
    for name, tokens in (("a", [1]), ("ö", [2, 3]), ("a", []), ("c", [4])):
        cache.record(name, tokens)
        cache.update(cache.take_new())
    restored = RolloutCache(max_utterances=2)
    restored.restore(cache.tensors())
    assert [restored.get(name) for name in ("a", "ö", "c", "d")] == [[], None, [4], None]


class RecordingEngine:
    """The student's own decoding, with a record of the calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, recognizer, prompts, **options):
        self.calls.append("decode")
        return decode(recognizer, prompts, **options)

    def on_weights_changed(self):
        self.calls.append("updated")

    def close(self):
        self.calls.append("close")


def test_an_engine_is_notified_of_every_update_but_not_of_skipped_steps(student, teacher, noise_examples, tmp_path):
    """The notification is needed: a fused optimizer changes weights without raising torch's version counter."""
    examples = noise_examples(student, teacher)
    bad = copy.deepcopy(examples)
    bad[0].features[teacher.frontend][:] = float("nan")
    settings = SETTINGS.model_copy(update={"steps": 3, "checkpoint_every": 3})
    engine = RecordingEngine()
    stage = DistillationStage(student, teacher, OBJECTIVE, engine=engine)
    train(stage, Stream([examples, bad, examples]), settings, tmp_path, seed=0)
    assert engine.calls == ["decode", "updated", "decode", "decode", "updated"]
    resumed = RecordingEngine()
    stage = DistillationStage(student, teacher, OBJECTIVE, engine=resumed)
    train(stage, Stream([examples]), settings.model_copy(update={"steps": 4}), tmp_path, seed=0)
    assert resumed.calls == ["updated", "decode", "updated"]


def test_the_draft_of_joined_utterances_is_both_texts(student, teacher, noise_examples):
    examples = [example for example in noise_examples(student, teacher) if example.utterance.language == "English"]
    drafts = {example.utterance.id: example.utterance.text for example in examples}
    settings = AugmentationSettings(join_share=1.0, time_masks=0, frequency_masks=0)
    stage = DistillationStage(student, teacher, OBJECTIVE, drafts, augmentation=settings)
    joined = next(example for example in join_utterances(examples, settings, 1) if example.joined_from)
    both = " ".join(drafts[part.id] for part in joined.joined_from)
    [draft] = stage.rollouts.drafts_of([joined])
    assert draft == student.transcript_ids(both).tolist()
    [ids] = stage.rollouts.draft_text_ids([joined])
    assert len(ids) == len(draft)

    part = joined.joined_from[0]
    stage.add_rollouts({part.id: student.transcript_ids("red").tolist()})
    [draft] = stage.rollouts.drafts_of([joined])
    assert draft == student.transcript_ids(f"red {drafts[joined.joined_from[1].id]}").tolist()


def test_the_length_ratio_is_relative_to_the_drafts(student, teacher, noise_examples):
    examples = noise_examples(student, teacher)[:1]
    text = examples[0].utterance.text
    stage = DistillationStage(student, teacher, OBJECTIVE, {examples[0].utterance.id: text})
    expected = len(student.transcript_ids(text))
    set_rollouts(stage, ["red book in london red"])
    values = stage(examples, seed=0).metrics.values()
    generated = len(student.transcript_ids("red book in london red"))
    assert values["rollout/length_ratio"] == pytest.approx(generated / expected)
