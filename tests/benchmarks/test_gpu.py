"""`benchmarks.gpu` on the CPU at toy size: findings are written, finished parts are skipped, failures are reported."""

import json

import pytest
import torch
from benchmarks.gpu_setting import Finding, Setting, within

from benchmarks import gpu

ARGUMENTS = ["--device", "cpu", "--tiny"]


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_findings_are_written_and_finished_parts_are_not_repeated(tmp_path, capsys):
    arguments = [*ARGUMENTS, "--output", str(tmp_path), "--only", "objective", "padding"]
    assert gpu.main(arguments) == 0
    assert "| float32, tied, sparse gradient: gradient of head | " in capsys.readouterr().out
    written = {name: (tmp_path / f"{name}.jsonl").read_bytes() for name in ("objective", "padding")}
    for name in written:
        header, *findings, last = read_lines(tmp_path / f"{name}.jsonl")
        assert header["environment"]["torch"] == torch.__version__
        assert findings
        assert all(line["finding"]["passed"] for line in findings)
        assert last["seconds"] > 0
    assert gpu.main(arguments) == 0
    assert "objective: already done" in capsys.readouterr().out
    assert written == {name: (tmp_path / f"{name}.jsonl").read_bytes() for name in written}


def test_a_part_that_fails_or_exceeds_its_time_is_reported_and_the_others_run(tmp_path, capsys):
    (tmp_path / "speech").mkdir()
    (tmp_path / "speech" / "bad.jsonl").write_text("no JSON\n")
    arguments = [*ARGUMENTS, "--output", str(tmp_path / "out"), "--speech", str(tmp_path / "speech")]
    arguments += ["--only", "features", "cost_of_the_objective"]
    assert gpu.main(arguments) == 1
    printed = capsys.readouterr().out
    assert "features: FAILED: " in printed
    assert "bad.jsonl" in printed
    assert "published / fused" in printed
    assert gpu.main([*arguments, "--seconds", "0.1"]) == 1
    assert "features: FAILED: stopped after 0 s" in capsys.readouterr().out


def test_failed_checks_are_counted_and_give_exit_code_1(tmp_path, monkeypatch, capsys):
    def failing(setting):
        """A check that fails, and a figure."""
        yield within("difference", float("nan"), 1.0)
        yield Finding("figure", "3")

    monkeypatch.setitem(gpu.PARTS, "padding", failing)
    arguments = [*ARGUMENTS, "--output", str(tmp_path), "--only", "padding"]
    assert gpu.main([*arguments, "--in-process", "padding"]) == 0
    assert gpu.main(arguments) == 1
    printed = capsys.readouterr().out
    assert "1 WRONG" in printed
    assert "| difference | nan (limit 1e+00) | **no** |" in printed


@pytest.mark.parametrize("part", ["rollouts", "half", "cost_of_rollouts", "steps"])
def test_checks_of_other_parts_pass_on_the_cpu(part):
    findings = list(gpu.PARTS[part](Setting("cpu", tiny=True)))
    assert findings
    assert not [finding for finding in findings if finding.passed is False]


def test_without_a_gpu_the_error_names_the_options_for_a_cpu(capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SystemExit):
        gpu.main(["--only", "padding"])
    assert "take --device cpu --tiny" in capsys.readouterr().err
