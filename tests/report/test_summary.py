from pathlib import Path
from typing import Any

import pytest

from arkasr.report.run_folder import read_run
from arkasr.report.summary import result_in_words, summarise
from tests.report.test_tables import edit_results


def compare(run_path: Path, a: str, b: str, difference: float, p: float) -> None:
    """Make this the only comparison of the results."""
    row: dict[str, Any] = {"a": a, "b": b, "set": "pooled", "difference": difference, "p": p, "test": "t"}
    ci95 = [difference - 0.01, difference + 0.02]
    edit_results(
        run_path, lambda results: results.update(comparisons=[row | {"ci95": ci95, "speaks_of": "two models"}])
    )


@pytest.mark.parametrize(
    ("difference", "p", "beginning"),
    [
        (-0.05, 0.002, "base+td+opd makes fewer errors than base: "),
        (-0.05, 0.2, "base+td+opd is not significantly different from base: "),
        (0.05, 0.002, "base+td+opd makes more errors than base: "),
        (0.05, 0.2, "base+td+opd is not significantly different from base: "),
    ],
)
def test_the_headline_states_the_result(run_path: Path, difference: float, p: float, beginning: str) -> None:
    compare(run_path, "base+td+opd", "base", difference, p)
    assert summarise(read_run(run_path)).headline.startswith(beginning)


def test_the_headline_has_rates_difference_interval_and_p(run_path: Path) -> None:
    def change(results: dict[str, Any]) -> None:
        for row in results["rows"]:
            row |= {"errors": {"base": 20}.get(row["variant"], 15), "reference_tokens": 100}

    edit_results(run_path, change)
    compare(run_path, "base+td+opd", "base", -0.05, 0.0312)
    headline = summarise(read_run(run_path)).headline
    figures = "20.0% → 15.0% (−5.0 points, 95% interval −6.0 to −3.0, p = 0.031)"
    assert headline.endswith(f"{figures}. This holds for two models.")


def test_a_swapped_pair_gives_the_same_sentence(run_path: Path) -> None:
    compare(run_path, "base", "base+td+opd", 0.05, 0.0001)
    headline = summarise(read_run(run_path)).headline
    assert headline.startswith("base+td+opd makes fewer errors than base: ")
    assert headline.endswith("(−5.0 points, 95% interval −7.0 to −4.0, p < 0.001). This holds for two models.")


def test_without_a_comparison_the_headline_claims_nothing(run_path: Path) -> None:
    edit_results(run_path, lambda results: results.update(comparisons=[]))
    assert "chance is not ruled out" in summarise(read_run(run_path)).headline


def test_failed_transcriptions_are_reported(run_path: Path) -> None:
    assert "failed" not in " ".join(summarise(read_run(run_path)).details)
    edit_results(run_path, lambda results: results["rows"][1].update(failed=3))
    assert "3 transcriptions failed" in summarise(read_run(run_path)).details[-1]


def test_a_run_of_one_variant_has_a_headline_too(run_path: Path) -> None:
    edit_results(run_path, lambda results: results.update(rows=results["rows"][2:4], comparisons=[]))
    assert summarise(read_run(run_path)).headline.startswith("Error rate over all test sets: base ")


def test_a_result_in_words_names_the_better_variant(run_path: Path) -> None:
    results = {}
    for difference, p in ((-0.05, 0.01), (0.05, 0.01), (-0.05, 0.06)):
        compare(run_path, "base+opd", "base", difference, p)
        results[difference, p] = result_in_words(read_run(run_path).comparisons[0])
    assert list(results.values()) == ["a is better", "b is better", "not significant"]


def test_transcripts_that_were_cut_off_are_reported(run_path: Path) -> None:
    edit_results(run_path, lambda results: results["rows"][1].update(truncated=2))
    assert "2 transcripts reached `evaluation.max_new_tokens`" in summarise(read_run(run_path)).details[-1]
