"""Output fields of an earlier command are dropped, not mixed with those of this command."""

import json

import numpy as np
import pytest
import soundfile
import torch

from arkasr.data.corpora.prepare import prepare_corpus
from arkasr.data.manifests.manifest import read_manifest, read_rows
from arkasr.data.manifests.output_fields import LABEL_FIELDS, SCORED_FIELDS
from arkasr.recognizers.inference import RecognitionSettings
from arkasr.run.compare_command import compare_transcripts
from arkasr.run.evaluate_command import evaluate_manifest
from arkasr.teacher.label import label
from arkasr.transcribe.formats import transcript_row
from arkasr.transcribe.transcript import Transcript

SETTINGS = RecognitionSettings(60.0, 4)
EARLIER = "another system's words"


@pytest.fixture
def manifest(tmp_path):
    """A short clip and one that is too long, both with the output fields of an earlier command."""
    rows = []
    for name, seconds in (("short", 1), ("long", 31)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(seconds * 16_000, 0.1), 16_000)
        row = {"audio": f"{name}.wav", "id": name, "text": EARLIER, "language": "English", "note": name}
        rows.append(
            row | dict.fromkeys(LABEL_FIELDS, EARLIER) | {"errors": 0, "reference_tokens": 3, "audio_path": EARLIER}
        )
    (tmp_path / "set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "set.jsonl"


def test_a_failed_clip_is_not_scored_with_an_earlier_transcript(student, manifest, tmp_path):
    student.save(tmp_path / "model")
    output = tmp_path / "out.jsonl"
    lines = list(evaluate_manifest(manifest, str(tmp_path / "model"), "basic", output, SETTINGS, torch.device("cpu")))
    assert "1 utterance, 1 failed" in lines[0]
    short, long = read_rows(output)
    assert (short["note"], long["note"]) == ("short", "long")
    assert EARLIER not in [short[key] for key in SCORED_FIELDS if key in short]
    assert "error" not in short
    assert "is 31.0 s long" in long["error"]
    assert not set(long) & {"pred_text", "pred_text_raw", "pred_segments", "pred_flags", "errors", "reference_tokens"}
    assert "1 failed" in next(compare_transcripts([output, output], "basic"))


def test_labels_have_no_fields_of_an_earlier_label_or_transcript(teacher, manifest):
    labels = label(teacher, read_manifest(manifest), SETTINGS, drop_failures=False)
    (kept,), (dropped,) = labels.rows, labels.dropped
    assert not set(kept) & {*LABEL_FIELDS, "audio_path"}
    assert set(dropped) & set(LABEL_FIELDS) == {"dropped", "error"}
    assert (dropped["dropped"], dropped["text"], dropped["note"]) == ("unreadable", None, "long")


def test_a_transcript_has_no_fields_of_an_earlier_score(manifest):
    fields = read_manifest(manifest)[0].fields
    row = transcript_row(fields, Transcript(error="not readable"))
    assert {name: row[name] for name in SCORED_FIELDS if name in row} == {
        "pred_text": None,
        "pred_text_raw": None,
        "error": "not readable",
    }
    assert "audio_path" not in row


def test_a_prepared_manifest_has_no_earlier_transcript(manifest, tmp_path):
    manifest.rename(tmp_path / "train.jsonl")
    prepare_corpus("an4", tmp_path, tmp_path / "prepared")
    for row, note in zip(read_rows(tmp_path / "prepared" / "train.jsonl"), ("short", "long"), strict=True):
        assert row["note"] == note
        assert not set(row) & {"pred_text", "pred_text_raw", "error", "errors", "reference_tokens", "audio_path"}
