import json
from pathlib import Path

import pytest

from arkasr.errors import InputError
from arkasr.report.run_folder import read_run
from tests.report.example_run import write_json


def test_a_finished_run_is_read_in_the_recipes_order(run_path: Path) -> None:
    run = read_run(run_path)
    assert run.variants == ["teacher", "base", "base+sft", "base+opd", "base+td", "base+td+opd"]
    assert run.test_sets == ["en-clean", "zh-read"]
    assert [stage.name for stage in run.stages if stage.kind == "opd"] == ["opd", "opd-after-td"]
    assert len(run.transcripts("base", 0, "en-clean")) == 4
    assert run.metrics("opd", 0)[-1]["step"] == 30


def test_the_teacher_is_the_variant_that_scores_or_labels(run_path: Path) -> None:
    text = (run_path / "recipe.yaml").read_text().replace("teacher: teacher\n  base:", "Qwen: teacher\n  base:")
    (run_path / "recipe.yaml").write_text(text)
    results = json.loads((run_path / "results.json").read_text().replace('"teacher"', '"Qwen"'))
    write_json(run_path / "results.json", results)
    run = read_run(run_path)
    assert run.teachers == {"Qwen"}
    assert run.students[0] == "base"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("recipe.yaml", None, "contains no run (no recipe.yaml)"),
        ("recipe.yaml", "a: [", "recipe.yaml: not YAML"),
        ("recipe.yaml", "- a", "recipe.yaml: expected keys and values"),
        ("results.json", None, "results.json: no such file; the run is not finished"),
        ("results.json", '{"rows": [', "results.json: damaged"),
        ("results.json", "[]", "results.json: expected one object"),
        ("results.json", "{}", "results.json: no key 'rows'"),
        ("results.json", '{"rows": [{"variant": "base"}]}', "results.json: no key 'set'"),
        (
            "results.json",
            '{"rows": [], "comparisons": [{"a": "x", "b": "y", "set": "s", "difference": 0, "ci95": [0, 0], "p": 1, '
            '"test": "of before"}]}',
            "results.json: no key 'speaks_of'; delete the file and let `arkasr run --resume` write it again",
        ),
        (
            "results.json",
            '{"rows": [], "comparisons": [{"a": "x", "b": "y", "set": "s", "difference": 0, "ci95": null, "p": 1, '
            '"test": "t", "speaks_of": "two models"}]}',
            "results.json: a value is of the wrong kind (a comparison has a p and no ci95, or the reverse)",
        ),
        ("results.json", '{"rows": 3}', "results.json: a value is of the wrong kind"),
        ("results.json", '{"rows": []}', "results.json: no row is of a variant of recipe.yaml"),
        ("environment.json", "{", "environment.json: damaged"),
    ],
)
def test_a_damaged_folder_gives_a_one_line_error(run_path: Path, file: str, content: str | None, message: str) -> None:
    if content is None:
        (run_path / file).unlink()
    else:
        (run_path / file).write_text(content)
    with pytest.raises(InputError) as raised:
        read_run(run_path)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_unknown_metric_is_an_error(run_path: Path) -> None:
    text = (run_path / "results.json").read_text().replace('"metric": "cer"', '"metric": "per"')
    (run_path / "results.json").write_text(text)
    with pytest.raises(InputError, match="metric 'per'"):
        read_run(run_path)


def test_an_incomplete_last_line_is_ignored(run_path: Path) -> None:
    path = run_path / "stages" / "opd" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 31, "lo')
    assert len(read_run(run_path).metrics("opd", 0)) == 30


def test_a_line_separator_inside_a_text_does_not_end_the_line(run_path: Path) -> None:
    path = run_path / "evaluations" / "base" / "en-clean.jsonl"
    path.write_text(json.dumps({"id": "a", "text": "one\u2028two"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_run(run_path).transcripts("base", 0, "en-clean") == [{"id": "a", "text": "one\u2028two"}]
