import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from arkasr.errors import InputError
from arkasr.report.terminal import print_results
from tests.report.example_run import SETS, build_run
from tests.report.test_tables import edit_results


def printed(path: Path, width: int, **options: bool) -> str:
    console = Console(file=io.StringIO(), width=width, **options)
    print_results(path, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_papers_table_fits_eighty_columns(tmp_path: Path) -> None:
    text = printed(build_run(tmp_path / "run", sets=list(SETS)), 80)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    header = next(line for line in lines if "en-clean" in line)
    assert header.split() == [*SETS, "pooled"]
    assert any(line.startswith("base+td+opd ") for line in lines)


def test_a_narrow_terminal_gets_the_sets_block_by_block_and_loses_nothing(tmp_path: Path) -> None:
    path = build_run(tmp_path / "run", sets=list(SETS))
    narrow = printed(path, 50)
    assert max(map(len, narrow.splitlines())) <= 50
    assert "…" not in narrow
    assert sum(line.startswith("variant") for line in narrow.splitlines()) == 2
    assert sorted(part for part in narrow.split() if part in SETS) == sorted(SETS)


def test_all_three_tables_and_the_verdict_are_there(run_path: Path) -> None:
    text = printed(run_path, 100)
    for part in ("Error rates, %", "normaliser basic@1", "VUSS mean", "70.0%", "a − b", "p"):
        assert part in text
    assert "base+td+opd " in text


def test_the_best_student_is_bold(run_path: Path) -> None:
    text = printed(run_path, 100, force_terminal=True)
    assert "\x1b[1m" in next(line for line in text.splitlines() if "base+td+opd" in line)


def test_intervals_over_speakers_are_called_so(run_path: Path) -> None:
    recipe = run_path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("evaluation:", "evaluation:\n  resample: speaker"))
    assert "95% interval over speakers" in printed(run_path, 100)


def test_no_run_no_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run is in here"):
        printed(tmp_path, 80)


SCOPE = "these two models, not the recipes that made them (one training seed)"


def test_beside_every_p_stands_what_it_speaks_of(run_path: Path) -> None:
    text = printed(run_path, 160)
    rows = [line for line in text.splitlines() if line.startswith("base+td+opd  base") and "is better" in line]
    assert len(rows) == 2
    assert all(line.rstrip().endswith(SCOPE) for line in rows)
    assert " ".join(text.split()).count(f"This speaks of {SCOPE}.") == 2


def test_the_number_of_voices_stands_below_the_rates(run_path: Path) -> None:
    text = printed(run_path, 160)
    assert "en-clean: 4 utterances, 3 speakers" in text
    assert "it leaves out the luck of the speakers" in text
    edit_results(run_path, lambda results: [row.update(speakers=None) for row in results["rows"]])
    assert "speakers" not in printed(run_path, 160)


def test_several_seeds_show_mean_deviation_and_the_interval_of_the_recipe(tmp_path: Path) -> None:
    path = build_run(tmp_path / "run", seeds=(0, 1, 2))

    def change(results: dict[str, Any]) -> None:
        for row in results["over_seeds"]:
            row |= {"rate": 0.321, "deviation": 0.02, "ci95": [0.2, 0.45]}

    edit_results(path, change)
    text = printed(path, 100)
    assert all(figure in text for figure in ("32.1", "±2.0", "20.0–45.0"))
    assert "95% interval of the recipe, over seeds and utterances" in text
