import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState

from arkasr.train.calibrate import calibrate, reasons_against_opd
from arkasr.train.loop import train
from arkasr.train.metrics import read_metrics
from arkasr.train.stages.opd import DistillationStage
from tests import models
from tests.train.opd import OBJECTIVE, SilentStudent, overfit
from tests.train.runs import SETTINGS
from tests.train.stream import Stream


def test_calibration_changes_no_weights_and_warns_of_a_distant_student(student, teacher, noise_examples):
    before = {name: value.clone() for name, value in student.model.state_dict().items()}
    examples = noise_examples(student, teacher)
    calibration = calibrate(DistillationStage(student, teacher, OBJECTIVE), iter([examples, examples]), 2)
    assert len(calibration.vuss_of_batches) == 2
    row = calibration.support_row()
    assert row["vuss_min"] <= row["vuss_mean"] <= row["vuss_max"]
    assert any("tokens that the student also ranks high" in warning for warning in calibration.warnings)
    assert any("hit the cap" in warning for warning in calibration.warnings)
    for name, value in student.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_calibration_warns_if_all_rollouts_are_empty(student, teacher, noise_examples):
    unlabelled = [replace(e, utterance=replace(e.utterance, text=None)) for e in noise_examples(student, teacher)]
    stage = DistillationStage(SilentStudent(student.model, student.processor), teacher, OBJECTIVE)
    calibration = calibrate(stage, iter([unlabelled]), 1)
    assert calibration.support_row() == {}
    assert calibration.warnings == ["no position of any rollout can be compared: train the student with SFT first"]


def test_a_close_student_gets_no_warning():
    close = {
        "support/vuss_mean": 9.0,
        "support/overlap_mass_teacher": 0.95,
        "teacher/mapped_share": 1.0,
        "teacher/paired_share": 0.96,
        "rollout/fallback_rate": 0.04,
        "rollout/skipped_rate": 0.04,
        "rollout/truncated": 0.01,
    }

    def reasons(**figures):
        changes = {name.replace("__", "/"): value for name, value in figures.items()}
        return reasons_against_opd(close | changes, Counter({" the": 120, "ly": 3}))

    assert reasons() == []
    assert "bring the student closer" in reasons(support__overlap_mass_teacher=0.3)[0]
    assert "vocabulary" in reasons(teacher__mapped_share=0.5)[0]
    assert "empty" in reasons(rollout__skipped_rate=0.4)[0]
    assert "cap" in reasons(rollout__truncated=0.4)[0]
    [reason] = reasons(teacher__paired_share=0.82)
    assert reason.startswith("only 82% of the rollout tokens have a teacher position")
    assert reason.endswith("set objective.unpaired to pieces. Most often without one: ' the' (120), 'ly' (3)")


def test_calibration_remembers_no_rollouts(student, teacher, noise_examples):
    stage = DistillationStage(student, teacher, OBJECTIVE)
    calibrate(stage, iter([noise_examples(student, teacher)]), 1)
    assert not stage.extra_state()["token_lengths"].numel()


def test_features_are_computed_in_float32_for_a_calibration_in_bfloat16(whisper):
    stage = DistillationStage(whisper, copy.deepcopy(whisper), OBJECTIVE)
    batches = (models.noise_examples(whisper) for _ in range(2))
    assert calibrate(stage, batches, 2, "bf16").metrics["loss"] == pytest.approx(0, abs=1e-2)


def test_in_bfloat16_masses_add_up_to_one_and_calibration_equals_training(student, teacher, noise_examples, tmp_path):
    """Top-k probabilities once added up to 1.099: the normaliser came from rounded scores, the scores did not."""
    examples = noise_examples(student, teacher)
    overfit(teacher, examples, tmp_path / "teacher")
    overfit(student, examples, tmp_path / "student")
    vocabulary = min(student.vocab_size, teacher.vocab_size)
    objective = OBJECTIVE.model_copy(update={"top_k": vocabulary})
    stage = DistillationStage(student, teacher, objective)
    settings = SETTINGS.model_copy(update={"steps": 1, "mixed_precision": "bf16"})
    measured = calibrate(stage, iter([examples]), 1, "bf16").metrics
    for side in ("teacher", "student"):
        overlap, tail = (measured[f"support/{name}_mass_{side}"] for name in ("overlap", "tail"))
        assert overlap + tail == pytest.approx(1, abs=1e-4)
        assert overlap <= 1 + 1e-5
    AcceleratorState._reset_state(True)
    train(stage, Stream([examples]), settings, tmp_path / "opd", seed=0)
    AcceleratorState._reset_state(True)
    [line] = read_metrics(tmp_path / "opd" / "metrics.jsonl")
    for name in ("loss", "support/tail_mass_teacher", "support/entropy_student"):
        assert line[name] == pytest.approx(measured[name], rel=1e-5)
