import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from arkasr.report.page import write_report
from arkasr.report.run_folder import read_run
from arkasr.report.tables import RateTable, RateTableRow, rate_table, support_table
from arkasr.report.terminal import print_results
from tests.report.example_run import build_run, write_json


def edit_results(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    results = json.loads((path / "results.json").read_text())
    change(results)
    write_json(path / "results.json", results)


def row_of(table: RateTable, variant: str) -> RateTableRow:
    return next(row for row in table.rows if row.variant == variant)


def rates_of(path: Path, variant: str, name: str) -> list[float]:
    rows = json.loads((path / "results.json").read_text())["rows"]
    return [row["rate"] for row in rows if row["variant"] == variant and row["set"] == name]


def test_one_seed_shows_its_rate_and_interval(run_path: Path) -> None:
    table = rate_table(read_run(run_path))
    assert [column.set for column in table.columns] == ["en-clean", "zh-read", "pooled"]
    assert [column.metric for column in table.columns] == ["wer", "cer", "wer + cer"]
    assert [column.utterances for column in table.columns] == [4, 4, 8]
    cell = row_of(table, "base").cells[0]
    assert cell is not None
    assert cell.mean == rates_of(run_path, "base", "en-clean")[0]
    assert cell.ci95 is not None
    assert cell.deviation is None


def test_several_seeds_show_mean_and_sample_deviation(tmp_path: Path) -> None:
    path = build_run(tmp_path / "run", seeds=(0, 1, 2))
    table = rate_table(read_run(path))
    cell = row_of(table, "base").cells[0]
    rates = rates_of(path, "base", "en-clean")
    assert cell is not None
    assert len(rates) == 3
    assert cell.mean == pytest.approx(np.mean(rates))
    assert cell.deviation == pytest.approx(np.std(rates, ddof=1))
    assert cell.ci95 == pytest.approx((np.mean(rates) - 0.05, np.mean(rates) + 0.05))
    teacher = row_of(table, "teacher").cells[0]
    assert teacher is not None
    assert teacher.deviation is None
    assert teacher.ci95 is not None


def test_pooled_is_all_errors_over_all_tokens_not_a_mean_of_rates(run_path: Path) -> None:
    def change(results: dict[str, Any]) -> None:
        for row in results["rows"]:
            if row["variant"] == "base":
                errors, tokens = (30, 300) if row["set"] == "en-clean" else (50, 100)
                row |= {"errors": errors, "reference_tokens": tokens, "rate": errors / tokens}

    edit_results(run_path, change)
    cell = row_of(rate_table(read_run(run_path)), "base").cells[-1]
    assert cell is not None
    assert cell.mean == pytest.approx(80 / 400)


def test_pooled_rows_of_the_results_take_precedence_over_sums(run_path: Path) -> None:
    def change(results: dict[str, Any]) -> None:
        row = dict(results["rows"][0])
        results["rows"].append(row | {"set": "pooled", "rate": 0.5, "ci95": [0.4, 0.6]})

    edit_results(run_path, change)
    table = rate_table(read_run(run_path))
    cell = row_of(table, "teacher").cells[-1]
    assert len(table.columns) == 3
    assert cell is not None
    assert (cell.mean, cell.ci95) == (0.5, (0.4, 0.6))


def test_the_best_student_is_marked_and_never_the_teacher(run_path: Path) -> None:
    table = rate_table(read_run(run_path))
    for index in range(len(table.columns)):
        cells = {row.variant: row.cells[index] for row in table.rows}
        students = {name: cell.mean for name, cell in cells.items() if cell and name != "teacher"}
        marked = {name for name, cell in cells.items() if cell and cell.best}
        lowest = min(mean for mean in students.values() if mean is not None)
        assert marked == {name for name, mean in students.items() if mean == lowest}


def test_a_variant_that_was_not_scored_on_a_set_has_no_pooled_rate(run_path: Path) -> None:
    edit_results(run_path, lambda results: results["rows"].pop())
    cells = row_of(rate_table(read_run(run_path)), "base+td+opd").cells
    assert cells[0] is not None
    assert cells[1:] == [None, None]


def test_a_set_without_reference_tokens_has_no_rate(run_path: Path) -> None:
    def change(results: dict[str, Any]) -> None:
        for row in results["rows"]:
            if row["set"] == "zh-read":
                row |= {"reference_tokens": 0, "rate": None, "ci95": None}

    edit_results(run_path, change)
    cell = row_of(rate_table(read_run(run_path)), "base").cells[1]
    assert cell is not None
    assert cell.mean is None
    assert not cell.best


def test_small_rates_get_a_second_decimal(run_path: Path) -> None:
    assert rate_table(read_run(run_path)).decimals == 1

    def change(results: dict[str, Any]) -> None:
        for row in results["rows"]:
            row |= {"errors": 3, "reference_tokens": 100, "rate": 0.03}

    edit_results(run_path, change)
    assert rate_table(read_run(run_path)).decimals == 2


def test_support_is_averaged_over_seeds_and_keeps_the_extremes(tmp_path: Path) -> None:
    path = build_run(tmp_path / "run", seeds=(0, 2))
    edit_results(path, lambda results: results["support"][0].update(vuss_min=1.5))
    before, after = support_table(read_run(path))
    assert (before.variant, after.variant) == ("base", "base+td")
    assert before.vuss_mean == pytest.approx(5.68)
    assert before.vuss_min == 1.5
    assert before.vuss_max == pytest.approx(6.07)
    assert before.overlap_ratio == pytest.approx(0.7)
    assert before.warnings == []


def test_warnings_about_opd_appear_once_for_all_seeds(tmp_path: Path) -> None:
    path = build_run(tmp_path / "run", seeds=(0, 2))

    def doubt(results: dict[str, Any]) -> None:
        for row in results["support"]:
            row["warnings"] = ["the student loops"] if row["variant"] == "base" else []

    edit_results(path, doubt)
    before, after = support_table(read_run(path))
    assert (before.warnings, after.warnings) == (["the student loops"], [])
    console = Console(record=True, width=100)
    print_results(path, console)
    assert console.export_text().count("OPD from base may not work: the student loops.") == 1
    write_report(path)
    assert (path / "report.html").read_text().count("OPD from base may not work: the student loops.") == 1
