"""`arkasr calibrate` comes before the run, so the labels that would be drafts do not exist yet."""

import json

import numpy as np
import soundfile


def test_calibration_needs_no_labels(whisper_folder, tmp_path, command):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(size=16_000) * 0.1, 16_000)
    (tmp_path / "set.jsonl").write_text(json.dumps({"audio": "a.wav", "language": "English"}))
    optimization = {"steps": 1, "batch_seconds": 30, "learning_rate": 1e-3}
    recipe = {
        "name": "whisper",
        "sets": {"P": {"manifest": str(tmp_path / "set.jsonl")}},
        "models": {name: {"pretrained": str(whisper_folder)} for name in ("student", "teacher")},
        "stages": {
            "labels": {"kind": "label", "start": "teacher", "audio": "P"},
            "opd": {
                "kind": "opd",
                "start": "student",
                "teacher": "teacher",
                "train": "P",
                "drafts": "labels",
                "calibration_batches": 1,
                "objective": {"max_new_tokens": 6},
                "optimization": optimization,
            },
        },
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    status, printed, errors = command("calibrate", tmp_path / "recipe.yaml", "--output", tmp_path / "run")
    assert (status, errors) == (0, [])
    assert "support/vuss_mean" in printed
    assert not (tmp_path / "run" / "stages").exists()
