"""What `make gpu` runs, on the CPU at toy size: a slice of its parts, one that fails, and going on."""

import json

import pytest
import torch
from benchmarks.gpu_setting import Finding, Setting, within

from benchmarks import gpu

ARGUMENTS = ["--device", "cpu", "--tiny"]


def lines_of(place):
    return [json.loads(line) for line in place.read_text().splitlines()]


def test_parts_run_are_written_and_are_not_run_again(tmp_path, capsys):
    arguments = [*ARGUMENTS, "--output", str(tmp_path), "--only", "objective", "padding"]
    assert gpu.main(arguments) == 0
    assert "| float32, tied, sparse gradient: gradient of head | " in capsys.readouterr().out
    written = {name: (tmp_path / f"{name}.jsonl").read_bytes() for name in ("objective", "padding")}
    for name in written:
        first, *findings, end = lines_of(tmp_path / f"{name}.jsonl")
        assert first["environment"]["torch"] == torch.__version__
        assert findings
        assert all(line["finding"]["passed"] for line in findings)
        assert end["seconds"] > 0
    assert gpu.main(arguments) == 0
    assert "objective: done before" in capsys.readouterr().out
    assert written == {name: (tmp_path / f"{name}.jsonl").read_bytes() for name in written}


def test_a_part_that_fails_or_takes_too_long_says_so_and_the_others_run(tmp_path, capsys):
    absent = ["--speech", str(tmp_path / "absent.jsonl")]
    (tmp_path / "absent.jsonl").mkdir()
    (tmp_path / "absent.jsonl" / "bad.jsonl").write_text("no JSON\n")
    arguments = [*ARGUMENTS, "--output", str(tmp_path / "out"), *absent, "--only", "features", "cost_of_the_objective"]
    assert gpu.main(arguments) == 1
    printed = capsys.readouterr().out
    assert "features: FAILED: " in printed
    assert "bad.jsonl" in printed
    assert "published / fused" in printed
    assert gpu.main([*arguments, "--seconds", "0.1"]) == 1
    assert "features: FAILED: stopped after 0 s" in capsys.readouterr().out


def test_what_is_wrong_is_counted_and_ends_with_1(tmp_path, monkeypatch, capsys):
    def broken(setting):
        """Finds what must not be."""
        yield within("difference", float("nan"), 1.0)
        yield Finding("figure", "3")

    monkeypatch.setitem(gpu.PARTS, "padding", broken)
    arguments = [*ARGUMENTS, "--output", str(tmp_path), "--only", "padding"]
    assert gpu.main([*arguments, "--in-process", "padding"]) == 0
    assert gpu.main(arguments) == 1
    printed = capsys.readouterr().out
    assert "1 WRONG" in printed
    assert "| difference | nan (limit 1e+00) | **no** |" in printed


@pytest.mark.parametrize("part", ["rollouts", "half", "cost_of_rollouts", "steps"])
def test_other_parts_find_nothing_wrong_here(part):
    found = list(gpu.PARTS[part](Setting("cpu", tiny=True)))
    assert found
    assert not [finding for finding in found if finding.passed is False]


def test_without_a_gpu_it_says_how_to_try_the_code(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one here")
    with pytest.raises(SystemExit):
        gpu.main(["--only", "padding"])
    assert "take --device cpu --tiny" in capsys.readouterr().err
