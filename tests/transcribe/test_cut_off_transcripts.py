"""Transcripts that reach the limit of tokens are counted, flagged, and named where the format has no flags."""

import json

import numpy as np
import pytest
import soundfile


@pytest.fixture
def folder(tmp_path, student):
    student.save(tmp_path / "model")
    rows = []
    for number in range(3):
        samples = np.random.default_rng(number).normal(size=16_000) * 0.1
        soundfile.write(tmp_path / f"{number}.wav", samples, 16_000)
        rows.append({"audio": f"{number}.wav", "text": "one two", "language": "English", "id": str(number)})
    (tmp_path / "set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def options(folder, output):
    return ("--model", folder / "model", "--max-new-tokens", 2, "-o", folder / output)


def test_evaluate_counts_and_flags_them(folder, command):
    status, printed, _ = command("evaluate", folder / "set.jsonl", *options(folder, "out.jsonl"))
    assert status == 0
    assert "3 cut off at the limit of tokens" in printed
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert ["truncated" in row["pred_flags"] for row in rows] == [True] * 3


@pytest.mark.parametrize(("output", "is_named"), [("texts.txt", True), ("out.jsonl", False)])
def test_transcribe_names_them_if_the_format_has_no_flags(folder, command, output, is_named):
    status, _, errors = command("transcribe", folder / "set.jsonl", *options(folder, output))
    message = (
        "arkasr: 3 recordings have pieces that were cut off at 2 tokens; raise --max-new-tokens, or see which in the "
        "format jsonl"
    )
    assert status == 0
    assert (message in errors) == is_named
