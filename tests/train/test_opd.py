import copy
import json
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState

from arkasr.distill import fused_union_topk_kl
from arkasr.errors import InputError
from arkasr.model.processor import INSTRUCTION
from arkasr.recognizers.ark_asr import ArkAsr, build_ark_asr
from arkasr.recognizers.decoding import Transcripts, decode
from arkasr.recognizers.tokenizer import train_base_vocabulary
from arkasr.teacher.in_process import InProcessTeacher
from arkasr.train.augment import join_utterances
from arkasr.train.calibrate import calibrate, verdict
from arkasr.train.distribution import autocast_for
from arkasr.train.loop import train
from arkasr.train.metrics import read_metrics
from arkasr.train.rollout_cache import RolloutCache
from arkasr.train.settings import AugmentationSettings, ObjectiveSettings
from arkasr.train.stages.opd import DistillationStage
from tests.models import SMALL_STUDENT, TEXTS
from tests.train.runs import SETTINGS
from tests.train.stream import Stream

OBJECTIVE = ObjectiveSettings(top_k=8, max_new_tokens=6)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def learned_to_write(recognizer, examples, folder):
    """The recogniser after it has learned the examples by heart, so that its rollouts have words and an end."""
    from arkasr.train.stages.sft import SupervisedStage

    settings = SETTINGS.model_copy(update={"steps": 60, "schedule": "constant"})
    train(SupervisedStage(recognizer, None), Stream([examples]), settings, folder, seed=0)
    return recognizer


def test_a_student_that_is_its_own_teacher_has_no_loss(student, hear):
    teacher = copy.deepcopy(student)
    stage = DistillationStage(student, teacher, OBJECTIVE)
    loss = stage(hear(student), seed=0)
    assert loss.count > 0
    assert loss.total.item() == pytest.approx(0, abs=1e-5)
    values = loss.metrics.values()
    assert values["support/overlap_ratio"] == 1
    assert values["support/argmax_agreement"] == 1
    assert values["support/vuss_mean"] == OBJECTIVE.top_k


@pytest.mark.parametrize("tied", [True, False])
def test_the_gradient_of_the_head_is_whole_over_micro_batches_whether_or_not_it_is_tied(student, teacher, hear, tied):
    if not tied:
        model = student.model
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 1.5)
    examples = hear(student, teacher)
    stage = DistillationStage(student, teacher, OBJECTIVE)

    def gradients():
        student.model.zero_grad()
        for part in (examples[:2], examples[2:]):
            stage(part, seed=0).total.backward()
        return student.model.get_input_embeddings().weight.grad, student.head.grad

    found = gradients()
    assert all(gradient.layout == torch.strided for gradient in found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("arkasr.train.stages.opd.fused_union_topk_kl", fused_union_topk_kl_dense)
        expected = gradients()
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_a_teacher_whose_weights_stay_in_main_memory_gives_the_same_loss(student, teacher, hear, device):
    examples = hear(student, teacher)
    student.model.to(device)
    expected = DistillationStage(student, InProcessTeacher(teacher_on(teacher, device)), OBJECTIVE)(examples, seed=0)
    away = InProcessTeacher(teacher, offload=True)
    found = DistillationStage(student, away, OBJECTIVE)(examples, seed=0)
    assert torch.equal(found.total, expected.total)
    assert {weight.device.type for weight in teacher.model.parameters()} == {"cpu"}


def teacher_on(teacher, device):
    teacher.model.to(device)
    return teacher


def fused_union_topk_kl_dense(*arguments, **options):
    return fused_union_topk_kl(*arguments, **options | {"sparse_head_gradient": False})


def test_the_student_moves_towards_the_teacher_and_the_teacher_stays(student, teacher, hear, tmp_path):
    examples = hear(student, teacher)
    learned_to_write(teacher, examples, tmp_path / "teacher")
    learned_to_write(student, examples, tmp_path / "student")
    before = {name: value.clone() for name, value in teacher.model.state_dict().items()}
    stage = DistillationStage(student, teacher, OBJECTIVE)
    settings = SETTINGS.model_copy(update={"steps": 25, "schedule": "constant", "learning_rate": 3e-3})
    train(stage, Stream([examples]), settings, tmp_path / "opd", seed=0)
    lines = [json.loads(line) for line in (tmp_path / "opd" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    for name, value in teacher.model.state_dict().items():
        assert torch.equal(value, before[name])
    phases = {f"time/{name}" for name in ("data", "encode", "rollout", "teacher", "student", "backward", "optimizer")}
    assert phases <= lines[0].keys()
    for name in ("rollout/tokens", "rollout/fallback_rate", "teacher/mapped_share", "support/valid_share"):
        assert name in lines[0]
    assert lines[0]["teacher/mapped_share"] == 1


def test_the_teacher_is_no_part_of_the_checkpoint_or_of_the_optimizer(student, teacher):
    stage = DistillationStage(student, teacher, OBJECTIVE)
    assert not any("teacher" in name for name in stage.state_dict())
    assert set(map(id, stage.parameters())) == set(map(id, student.model.parameters()))


def test_permuted_teacher_ids_give_the_loss_of_equal_ids(student, hear):
    """A teacher with the student's weights whose vocabulary is in another order has the same scores by token string."""
    twin = copy.deepcopy(student)
    order = torch.randperm(student.vocab_size, generator=torch.Generator().manual_seed(0))
    permuted = with_permuted_ids(twin, order)
    stage = DistillationStage(student, permuted, OBJECTIVE)
    loss = stage(hear(student), seed=0)
    assert loss.count > 0
    assert loss.total.item() == pytest.approx(0, abs=1e-5)


def with_permuted_ids(recognizer: ArkAsr, order: torch.Tensor) -> ArkAsr:
    """The same recogniser with token `i` at id `order[i]`."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    document = json.loads(recognizer.tokenizer.backend_tokenizer.to_str())
    vocabulary = document["model"]["vocab"]
    document["model"]["vocab"] = {token: int(order[place]) for token, place in vocabulary.items()}
    for token in document["added_tokens"]:
        token["id"] = int(order[token["id"]])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(document)),
        eos_token=recognizer.tokenizer.eos_token,
        pad_token=recognizer.tokenizer.pad_token,
    )
    with torch.no_grad():
        weight = recognizer.model.get_input_embeddings().weight
        weight.copy_(weight[order.argsort()].clone())
    processor = copy.copy(recognizer.processor)
    processor.tokenizer = tokenizer
    processor.audio_token_id = tokenizer.convert_tokens_to_ids(processor.audio_token)
    recognizer.model.config.audio_token_id = processor.audio_token_id
    return ArkAsr(recognizer.model, processor)


def test_other_merges_are_paired_by_bytes_and_the_shares_logged(student, hear, tmp_path):
    torch.manual_seed(0)
    coarse = build_ark_asr(SMALL_STUDENT, train_base_vocabulary(TEXTS * 3, 290, [INSTRUCTION]))
    examples = hear(student)
    learned_to_write(student, examples, tmp_path)
    loss = DistillationStage(student, coarse, OBJECTIVE)(examples, seed=0)
    values = loss.metrics.values()
    assert 0 < values["teacher/mapped_share"] < 1
    assert values["teacher/retokenised_rate"] > 0
    assert 0 < values["teacher/retokenisation_mismatch_rate"] < 1
    assert loss.count > 0


@pytest.mark.parametrize("killed_behind", [None, 3])
def test_a_run_stops_when_the_teacher_cannot_answer_for_enough_tokens(student, hear, tmp_path, killed_behind):
    torch.manual_seed(0)
    other = build_ark_asr(SMALL_STUDENT, train_base_vocabulary(TEXTS * 3, 256))
    examples = hear(student)
    learned_to_write(student, examples, tmp_path)
    objective = OBJECTIVE.model_copy(update={"min_mapped_share": 0.95})
    settings = SETTINGS.model_copy(update={"steps": 50, "learning_rate": 1e-6, "checkpoint_every": 1})
    if killed_behind:
        first = settings.model_copy(update={"steps": killed_behind})
        train(DistillationStage(student, other, objective), Stream([examples]), first, tmp_path / "opd", seed=0)
    with pytest.raises(InputError, match=r"objective\.min_mapped_share: the teacher can score \d+%"):
        train(DistillationStage(student, other, objective), Stream([examples]), settings, tmp_path / "opd", seed=0)
    lines = read_metrics(tmp_path / "opd" / "metrics.jsonl")
    assert all(line["teacher/paired_share"] < 0.95 for line in lines)
    # A few odd rollouts do not end a run, and those of before a kill count.
    written = 5 * sum(line["rollout/tokens"] + line["rollout/stopped"] for line in lines)
    assert 200 - 5 * (OBJECTIVE.max_new_tokens + 1) <= written < 200


class Silent(ArkAsr):
    """A student whose every rollout ends at once."""

    @property
    def allowed_tokens(self):
        allowed = torch.zeros(self.vocab_size, dtype=torch.bool)
        allowed[self.stop_token_id] = True
        return allowed

    @allowed_tokens.setter
    def allowed_tokens(self, _):
        pass


def test_an_empty_rollout_falls_back_to_the_reference_or_is_skipped(student, teacher, hear):
    examples = hear(student, teacher)
    unlabelled = [replace(e, utterance=replace(e.utterance, text=None)) for e in examples[:2]]
    stage = DistillationStage(Silent(student.model, student.processor), teacher, OBJECTIVE)
    values = stage([*unlabelled, *examples[2:]], seed=0).metrics.values()
    assert values["rollout/empty"] == 1
    assert values["rollout/skipped_rate"] == pytest.approx(2 / 5)
    assert values["rollout/fallback_rate"] == pytest.approx(3 / 5)


def test_a_batch_of_nothing_but_empty_rollouts_has_no_loss_and_no_nan(student, teacher, hear):
    unlabelled = [replace(e, utterance=replace(e.utterance, text=None)) for e in hear(student, teacher)]
    loss = DistillationStage(Silent(student.model, student.processor), teacher, OBJECTIVE)(unlabelled, seed=0)
    assert loss.count == 0
    loss.total.backward()
    assert all(p.grad is None or not p.grad.any() for p in student.model.parameters())


def test_calibration_changes_nothing_and_warns_of_a_student_that_is_far_away(student, teacher, hear):
    before = {name: value.clone() for name, value in student.model.state_dict().items()}
    examples = hear(student, teacher)
    calibration = calibrate(DistillationStage(student, teacher, OBJECTIVE), iter([examples, examples]), 2)
    assert len(calibration.vuss_of_batches) == 2
    row = calibration.support_row()
    assert row["vuss_min"] <= row["vuss_mean"] <= row["vuss_max"]
    assert any("tokens that the student also ranks high" in warning for warning in calibration.warnings)
    assert any("hit the cap" in warning for warning in calibration.warnings)
    for name, value in student.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_calibration_of_nothing_but_empty_rollouts_says_so(student, teacher, hear):
    unlabelled = [replace(e, utterance=replace(e.utterance, text=None)) for e in hear(student, teacher)]
    stage = DistillationStage(Silent(student.model, student.processor), teacher, OBJECTIVE)
    calibration = calibrate(stage, iter([unlabelled]), 1)
    assert calibration.support_row() == {}
    assert calibration.warnings == ["no position of any rollout can be compared: train the student with SFT first"]


def test_nothing_speaks_against_a_student_that_is_close():
    close = {
        "support/vuss_mean": 9.0,
        "support/overlap_mass_teacher": 0.95,
        "teacher/mapped_share": 1.0,
        "rollout/fallback_rate": 0.04,
        "rollout/skipped_rate": 0.04,
        "rollout/truncated": 0.01,
    }
    assert verdict(close) == []
    assert "bring the student closer" in verdict(close | {"support/overlap_mass_teacher": 0.3})[0]
    assert "vocabulary" in verdict(close | {"teacher/mapped_share": 0.5})[0]
    assert "empty" in verdict(close | {"rollout/skipped_rate": 0.4})[0]
    assert "cap" in verdict(close | {"rollout/truncated": 0.4})[0]


def loss_and_gradients(stage, examples):
    stage.zero_grad()
    loss = stage(examples, seed=3)
    loss.total.backward()
    return loss, [parameter.grad.clone() for parameter in stage.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_drafts_change_the_passes_and_not_the_loss(student, teacher, hear, tmp_path, temperature):
    examples = hear(student, teacher)
    learned_to_write(student, examples, tmp_path)
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
            assert again["rollout/passes"] == 1, "what was written the last time is the best draft"
        assert again["rollout/drafted_share"] == 1
    if not temperature:
        assert passes["drafts"] == passes["own texts"] < expected.metrics.values()["rollout/passes"]


def test_drawn_rollouts_are_other_ones_with_another_seed(student, teacher, hear):
    objective = OBJECTIVE.model_copy(update={"rollout_temperature": 1.0})
    stage = DistillationStage(student, teacher, objective)
    examples = hear(student, teacher)
    totals = [stage(examples, seed=seed).total.item() for seed in (0, 0, 1)]
    assert totals[0] == totals[1] != totals[2]


def test_calibration_leaves_no_rollout_behind(student, teacher, hear):
    stage = DistillationStage(student, teacher, OBJECTIVE)
    calibrate(stage, iter([hear(student, teacher)]), 1)
    assert not stage.extra_state()["token_lengths"].numel()


def test_the_memory_of_rollouts_survives_a_kill_and_so_do_the_bits(student, teacher, hear, tmp_path):
    examples = hear(student, teacher)
    learned_to_write(student, examples, tmp_path / "student")
    start = copy.deepcopy(student.model.state_dict())
    batches = [examples[:3], examples[2:]]

    def run(folder, steps):
        student.model.load_state_dict(start)
        stage = DistillationStage(student, teacher, OBJECTIVE.model_copy(update={"max_new_tokens": 30}))
        settings = SETTINGS.model_copy(update={"steps": steps, "checkpoint_every": 3, "schedule": "constant"})
        train(stage, Stream(batches), settings, folder, seed=0)
        return {name: value.clone() for name, value in student.model.state_dict().items()}, stage.extra_state()

    whole, memory = run(tmp_path / "whole", 7)
    run(tmp_path / "killed", 3)
    resumed, memory_of_resumed = run(tmp_path / "killed", 7)
    assert memory["token_lengths"].numel() > 1
    for name, value in memory.items():
        assert torch.equal(value, memory_of_resumed[name])
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_the_oldest_rollouts_make_room():
    memory = RolloutCache(most=2)
    for name, tokens in (("a", [1]), ("ö", [2, 3]), ("a", []), ("c", [4])):
        memory.record(name, tokens)
        memory.update(memory.take_new())
    restored = RolloutCache(most=2)
    restored.restore(memory.tensors())
    assert [restored.get(name) for name in ("a", "ö", "c", "d")] == [[], None, [4], None]


class CountingEngine:
    """The student's own decoding, and what it was told."""

    def __init__(self):
        self.told = []

    def __call__(self, recognizer, prompts, **options):
        self.told.append("asked")
        return decode(recognizer, prompts, **options)

    def updated(self):
        self.told.append("updated")

    def close(self):
        self.told.append("closed")


def test_an_engine_is_told_of_every_update_and_of_no_skipped_one(student, teacher, hear, tmp_path):
    """Weights do not say so themselves: a fused optimizer, as on accelerators, leaves no trace that torch counts."""
    examples = hear(student, teacher)
    bad = copy.deepcopy(examples)
    bad[0].features[teacher.frontend][:] = float("nan")
    settings = SETTINGS.model_copy(update={"steps": 3, "checkpoint_every": 3})
    engine = CountingEngine()
    stage = DistillationStage(student, teacher, OBJECTIVE, engine=engine)
    train(stage, Stream([examples, bad, examples]), settings, tmp_path, seed=0)
    assert engine.told == ["asked", "updated", "asked", "asked", "updated"]
    resumed = CountingEngine()
    again = DistillationStage(student, teacher, OBJECTIVE, engine=resumed)
    train(again, Stream([examples]), settings.model_copy(update={"steps": 4}), tmp_path, seed=0)
    assert resumed.told == ["updated", "asked", "updated"]


def said(student, text):
    """Tokens of a text without the stop token."""
    return student.transcript_ids(text)[:-1].tolist()


def over_and_over(text, times):
    return " ".join([text] * times)


def tokens_before_the_loop(student):
    """Of a transcript that says "red book in" over and over: those before the second "red", the blank included."""
    tokens = said(student, over_and_over("red book in", 9))
    texts = [student.transcript_text(torch.tensor(tokens[:count])) for count in range(len(tokens))]
    return max(count for count, text in enumerate(texts) if len(text) <= len("red book in "))


def writing(stage, texts):
    """Have the student of a stage write these texts, whatever it hears."""
    tokens = [stage.student.transcript_ids(text) for text in texts]
    transcripts = Transcripts(tokens, torch.ones(len(tokens), dtype=torch.bool), None, passes=1)
    stage.rollouts.write = lambda *arguments: transcripts


@pytest.mark.parametrize("looping", ["mask", "keep"])
def test_a_loop_is_counted_and_masked_from_where_its_prefix_repeats(student, teacher, hear, looping):
    examples = hear(student, teacher)[:2]
    stage = DistillationStage(student, teacher, OBJECTIVE.model_copy(update={"looping": looping}))
    writing(stage, ["red book in", over_and_over("red book in", 9)])
    loss = stage(examples, seed=0)
    values = loss.metrics.values()
    assert values["rollout/looping"] == 0.5
    assert values["teacher/paired_share"] == 1  # a loop says nothing of the vocabularies
    once, in_all = len(said(student, "red book in")), len(said(student, over_and_over("red book in", 9)))
    in_loop = in_all - tokens_before_the_loop(student) - 1
    assert loss.count == once + in_all + 2 - (in_loop if looping == "mask" else 0)


def test_what_a_loop_says_does_not_reach_the_gradient(student, teacher, hear):
    """A loop of eight rounds and one of nine differ in nothing that is compared but their length and their stop."""
    examples = hear(student, teacher)[:1]
    stage = DistillationStage(student, teacher, OBJECTIVE)
    seen = []
    stage._compare, compare = lambda *given: seen.append(compare(*given)) or seen[-1], stage._compare
    for rounds in (8, 9):
        writing(stage, [over_and_over("red book in", rounds)])
        stage(examples, seed=0)
    shorter, longer = seen
    compared = tokens_before_the_loop(student) + 1
    for result in seen:
        assert result.valid.nonzero().flatten().tolist() == [*range(compared), len(result.valid) - 1]
        assert result.per_position[compared:-1].eq(0).all()
    torch.testing.assert_close(shorter.per_position[:compared], longer.per_position[:compared])


def test_student_and_teacher_hear_the_same_augmented_audio_joined_utterances_included(student, hear):
    """A teacher with the student's weights agrees with it only if it hears what the student hears."""
    teacher = copy.deepcopy(student)
    settings = AugmentationSettings(time_stretch=0.2, time_masks=5, join_share=1.0)
    stage = DistillationStage(student, teacher, OBJECTIVE, augmentation=settings)
    examples, heard = hear(student), []
    stage.rollouts.write, write = (
        lambda prompts, some, *more: heard.extend(some) or write(prompts, some, *more),
        (stage.rollouts.write),
    )
    for seed in range(3):
        loss = stage(examples, seed)
        assert loss.count > 0
        assert loss.total.item() == pytest.approx(0, abs=1e-5)
    assert any(example.joined_from for example in heard)
    frames = [example.features[student.frontend].shape[1] for example in heard]
    assert frames != [example.features[student.frontend].shape[1] for example in examples] * 3


def test_joined_utterances_are_drafted_by_the_texts_of_both_and_measured_against_them(student, teacher, hear):
    examples = [example for example in hear(student, teacher) if example.utterance.language == "English"]
    drafts = {example.utterance.id: example.utterance.text for example in examples}
    settings = AugmentationSettings(join_share=1.0, time_masks=0, frequency_masks=0)
    stage = DistillationStage(student, teacher, OBJECTIVE, drafts, augmentation=settings)
    joined = next(example for example in join_utterances(examples, settings, 1) if example.joined_from)
    both = " ".join(drafts[part.id] for part in joined.joined_from)
    [draft] = stage.rollouts.drafts_of([joined])
    assert draft == student.transcript_ids(both).tolist()
    assert stage.rollouts.draft_text_lengths([joined]) == [len(draft)]

    part = joined.joined_from[0]
    stage.add_rollouts({part.id: student.transcript_ids("red").tolist()})
    [draft] = stage.rollouts.drafts_of([joined])
    assert draft == student.transcript_ids(f"red {drafts[joined.joined_from[1].id]}").tolist()


def test_the_length_of_rollouts_is_measured_against_the_drafts(student, teacher, hear):
    examples = hear(student, teacher)[:1]
    text = examples[0].utterance.text
    stage = DistillationStage(student, teacher, OBJECTIVE, {examples[0].utterance.id: text})
    expected = len(student.transcript_ids(text))
    writing(stage, ["red book in london red"])
    values = stage(examples, seed=0).metrics.values()
    written = len(student.transcript_ids("red book in london red"))
    assert values["rollout/length_ratio"] == pytest.approx(written / expected)


def test_a_run_whose_loops_grow_says_so_while_it_runs(student, teacher, hear, tmp_path):
    examples = hear(student, teacher)[:2]
    stage = DistillationStage(student, teacher, OBJECTIVE)
    writing(stage, ["red book in", "red book in"])
    remarks = []

    def on_step(step, _values):
        if step == 20:
            writing(stage, [over_and_over("red book in", 9)] * 2)

    settings = SETTINGS.model_copy(update={"steps": 40, "learning_rate": 1e-5})
    train(stage, Stream([examples]), settings, tmp_path, seed=0, on_step=on_step, on_warning=remarks.append)
    assert remarks
    assert "of the rollouts of the last 20 steps loop or hit max_new_tokens, where it was 0.0%" in remarks[0]


def test_masses_of_half_precision_are_masses_and_calibration_measures_what_training_does(
    student, teacher, hear, tmp_path
):
    """Top-k probabilities summed up to 1.099 when the normaliser came from rounded scores and the scores did not."""
    examples = hear(student, teacher)
    learned_to_write(teacher, examples, tmp_path / "teacher")
    learned_to_write(student, examples, tmp_path / "student")
    vocabulary = min(student.vocab_size, teacher.vocab_size)
    objective = OBJECTIVE.model_copy(update={"top_k": vocabulary})
    stage = DistillationStage(student, teacher, objective)
    settings = SETTINGS.model_copy(update={"steps": 1, "mixed_precision": "bf16"})
    with autocast_for(stage, settings):
        measured = calibrate(stage, iter([examples]), 1).metrics
    for side in ("teacher", "student"):
        assert measured[f"support/overlap_mass_{side}"] + measured[f"support/tail_mass_{side}"] == pytest.approx(
            1, abs=1e-4
        )
        assert measured[f"support/overlap_mass_{side}"] <= 1 + 1e-5
    AcceleratorState._reset_state(True)
    train(stage, Stream([examples]), settings, tmp_path / "opd", seed=0)
    AcceleratorState._reset_state(True)
    [line] = read_metrics(tmp_path / "opd" / "metrics.jsonl")
    for name in ("loss", "support/tail_mass_teacher", "support/entropy_student"):
        assert line[name] == pytest.approx(measured[name], rel=1e-5)
