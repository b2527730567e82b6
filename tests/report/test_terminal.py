import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from arkasr.errors import InputError
from arkasr.report.run_folder import read_run
from arkasr.report.summary import summarise
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


def test_a_narrow_terminal_shows_all_sets_in_blocks(tmp_path: Path) -> None:
    path = build_run(tmp_path / "run", sets=list(SETS))
    narrow = printed(path, 50)
    assert max(map(len, narrow.splitlines())) <= 50
    assert "…" not in narrow
    assert sum(line.startswith("variant") for line in narrow.splitlines()) == 2
    assert sorted(part for part in narrow.split() if part in SETS) == sorted(SETS)


def test_all_three_tables_are_printed(run_path: Path) -> None:
    text = printed(run_path, 100)
    for part in ("Error rates, %", "normaliser basic@1", "VUSS mean", "70.0%", "a − b", "p"):
        assert part in text
    assert "base+td+opd " in text


def test_the_best_student_is_bold(run_path: Path) -> None:
    text = printed(run_path, 100, force_terminal=True)
    assert "\x1b[1m" in next(line for line in text.splitlines() if "base+td+opd" in line)


def test_intervals_over_speakers_are_labelled(run_path: Path) -> None:
    recipe = run_path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("evaluation:", "evaluation:\n  resample: speaker"))
    assert "95% interval over speakers" in printed(run_path, 100)


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="contains no run"):
        printed(tmp_path, 80)


SCOPE = "these two models, not the recipes that made them (one training seed)"


def comparisons(path: Path, width: int) -> tuple[list[str], str]:
    """The lines of the comparison table, and the text below it on one line."""
    text = printed(path, width)
    assert max(map(len, text.splitlines())) <= width
    below = text.split("Comparisons over all test sets")[1]
    lines = [line.rstrip() for line in below.split("\n\n")[0].splitlines()]
    first = next(place for place, line in enumerate(lines) if line.startswith(("Th", "base+td+opd − ")))
    return lines[:first], " ".join(lines[first:])


@pytest.mark.parametrize("width", [50, 80, 160])
def test_a_common_scope_is_printed_once_below_the_comparisons(run_path: Path, width: int) -> None:
    rows, below = comparisons(run_path, width)
    assert sum("< 0.001" in row for row in rows) == 2
    assert any(row.split()[-1] == "shows" for row in rows)
    assert below == f"This holds for {SCOPE}."


def test_different_scopes_are_printed_for_each_comparison(run_path: Path) -> None:
    def change(results: dict[str, Any]) -> None:
        results["comparisons"][0]["speaks_of"] = "the two recipes (3 training seeds)"

    edit_results(run_path, change)
    _, below = comparisons(run_path, 80)
    assert below == (
        "base+td+opd − base: This holds for the two recipes (3 training seeds). "
        f"base+td+opd − base+sft: This holds for {SCOPE}."
    )


def test_a_comparison_without_a_p_is_a_dash(run_path: Path) -> None:
    def change(results: dict[str, Any]) -> None:
        for row in results["comparisons"]:
            row |= {"ci95": None, "p": None, "test": "no test: fewer than two speakers, or all of them alike"}

    edit_results(run_path, change)
    rows, below = comparisons(run_path, 100)
    reason = "There is no test: fewer than two speakers, or all of them alike."
    assert below == reason
    shown = [row.split()[-4:] for row in rows if row.startswith("base+td+opd")]
    assert shown == [["–", "–", "not", "tested"]] * 2
    headline = summarise(read_run(run_path)).headline
    assert headline.startswith("base+td+opd was not tested against base: ")
    assert headline.endswith(reason)


def test_the_number_of_speakers_is_printed_below_the_rates(run_path: Path) -> None:
    text = printed(run_path, 160)
    assert "en-clean: 4 utterances, 3 speakers" in text
    assert "the variance between so few speakers (3) is not included" in " ".join(text.split())
    edit_results(run_path, lambda results: [row.update(speakers=None) for row in results["rows"]])
    assert "speakers" not in printed(run_path, 160)


def test_few_speakers_give_a_warning_with_every_comparison(run_path: Path) -> None:
    def pool(results: dict[str, Any]) -> None:
        results["pooled"] = [
            row | {"set": "pooled", "speakers": 8} for row in results["rows"] if row["set"] == "en-clean"
        ]

    edit_results(run_path, pool)
    sentence = f"This holds for {SCOPE}; the variance between so few speakers (8) is not included."
    assert comparisons(run_path, 80)[1] == sentence
    assert summarise(read_run(run_path)).headline.endswith(sentence)
    recipe = run_path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("evaluation:", "evaluation:\n  resample: speaker"))
    assert comparisons(run_path, 80)[1].endswith("; an interval over so few speakers (8) is too narrow.")


def test_several_seeds_show_mean_deviation_and_the_interval_of_the_recipe(tmp_path: Path) -> None:
    path = build_run(tmp_path / "run", seeds=(0, 1, 2))

    def change(results: dict[str, Any]) -> None:
        for row in results["over_seeds"]:
            row |= {"rate": 0.321, "deviation": 0.02, "ci95": [0.2, 0.45]}

    edit_results(path, change)
    text = printed(path, 100)
    assert all(figure in text for figure in ("32.1", "±2.0", "20.0–45.0"))
    assert "95% interval of the recipe, over seeds and utterances" in text
