"""`arkasr compare` on files as `arkasr evaluate -o` writes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from arkasr.data.manifests.manifest import write_manifest
from arkasr.errors import InputError
from arkasr.run.scoring_commands import compare_transcripts

LEFT_OUT = "; the variance between so few speakers (8) is not included"


def row(name: str, written: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "text": "one two three", "pred_text": written, "language": "English"} | fields


def compared(folder: Path, *systems: Sequence[Mapping[str, Any]]) -> list[str]:
    paths = [folder / f"{name}.jsonl" for name in "abc"[: len(systems)]]
    for path, rows in zip(paths, systems, strict=True):
        write_manifest(path, rows)
    return list(compare_transcripts(paths, "basic"))


def test_a_comparison_says_that_it_speaks_of_two_models_and_how_many_voices(tmp_path: Path) -> None:
    a = [row(str(place), "one two three", speaker=f"s{place % 2}") for place in range(9)]
    b = [row(str(place), "one two", speaker=f"s{place % 2}") for place in range(9)]
    line = compared(tmp_path, a, b)[-1]
    assert "these two models, not the recipes that made them (one training seed)" in line
    assert "9 utterances, 2 speakers; paired permutation test" in line
    assert line.endswith("; the variance between so few speakers (2) is not included")


def test_a_rate_says_that_few_voices_are_left_out_of_its_interval(tmp_path: Path) -> None:
    few, many = (
        [row(str(place), "one two", speaker=f"s{place % voices}") for place in range(40)] for voices in (8, 20)
    )
    lines = compared(tmp_path, few, many)
    assert lines[0].endswith("40 utterances, 8 speakers, 0 failed, 0 without reference, normalizer basic@1" + LEFT_OUT)
    assert lines[1].endswith("40 utterances, 20 speakers, 0 failed, 0 without reference, normalizer basic@1")


def test_a_single_utterance_is_shown_and_not_tested(tmp_path: Path) -> None:
    lines = compared(tmp_path, [row("x", "one two three")], [row("x", "one two")])
    assert "wer 0.00%, 0 errors / 3 tokens" in lines[0]
    assert lines[-1].endswith(": -33.33%; 1 utterance; no test: fewer than two utterances, or all of them alike")


@pytest.mark.parametrize("damage", ['{"text": "two"}', '{"id": 3}', "[]"])
def test_a_line_without_an_id_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "x", "text": "one", "pred_text": "one"}\n' + damage + "\n")
    with pytest.raises(InputError, match=r"a\.jsonl:2: no `id`, or not a text; give files written by"):
        list(compare_transcripts([path, path], "basic"))


def test_an_id_that_stands_twice_is_refused_with_its_lines(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"b\.jsonl:3: id 'x' is also in line 1; make it unique"):
        compared(tmp_path, [row("x", "one")], [row("x", "one"), row("y", "two"), row("x", "three")])


@pytest.mark.parametrize("other", [{"text": "another thing"}, {"text": None}, {"language": "German"}])
def test_another_reference_or_language_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    key = next(iter(other))
    with pytest.raises(InputError, match=rf"b\.jsonl: id 'x' has another `{key}` than in .*a\.jsonl; compare outputs"):
        compared(tmp_path, [row("x", "one")], [row("x", "one") | other])


def test_a_language_by_name_and_by_code_is_the_same(tmp_path: Path) -> None:
    assert len(compared(tmp_path, [row("x", "one")], [row("x", "two", language="en")])) == 3


def test_references_without_words_have_no_rates_to_compare(tmp_path: Path) -> None:
    line = compared(tmp_path, [row("x", "one", text="")], [row("x", "one two", text="")])[-1]
    assert line.endswith("no reference tokens in 1 shared utterances, so no rates to compare")
    mixed = [row("x", "one", text=""), row("y", "one two three")], [row("x", "one two", text=""), row("y", "one two")]
    assert "%" in (line := compared(tmp_path, *mixed)[-1])
    assert len(line.split("(95% ")[1].split(")")[0]) < len("+100.00% to +100.00%") + 1
