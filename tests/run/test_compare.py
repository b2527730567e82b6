"""`arkasr compare` on files in the format of `arkasr evaluate -o`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from arkasr.data.manifests.manifest import write_manifest
from arkasr.errors import InputError
from arkasr.run.compare_command import compare_transcripts

FEW_SPEAKERS = "; the variance between so few speakers (8) is not included"


def row(utterance_id: str, transcript: str, **fields: Any) -> dict[str, Any]:
    return {"id": utterance_id, "text": "one two three", "pred_text": transcript, "language": "English"} | fields


def compare(folder: Path, *systems: Sequence[Mapping[str, Any]]) -> list[str]:
    paths = [folder / f"{name}.jsonl" for name in "abc"[: len(systems)]]
    for path, rows in zip(paths, systems, strict=True):
        write_manifest(path, rows)
    return list(compare_transcripts(paths, "basic"))


def test_a_comparison_names_its_scope_and_the_number_of_speakers(tmp_path: Path) -> None:
    a = [row(str(index), "one two three", speaker=f"s{index % 2}") for index in range(9)]
    b = [row(str(index), "one two", speaker=f"s{index % 2}") for index in range(9)]
    line = compare(tmp_path, a, b)[-1]
    assert "these two models, not the recipes that made them (one training seed)" in line
    assert "9 utterances, 2 speakers; paired permutation test" in line
    assert line.endswith("; the variance between so few speakers (2) is not included")


def test_a_rate_of_few_speakers_says_what_its_interval_does_not_include(tmp_path: Path) -> None:
    few, many = (
        [row(str(index), "one two", speaker=f"s{index % speakers}") for index in range(40)] for speakers in (8, 20)
    )
    lines = compare(tmp_path, few, many)
    assert lines[0].endswith(
        "40 utterances, 8 speakers, 0 failed, 0 without reference, normalizer basic@2" + FEW_SPEAKERS
    )
    assert lines[1].endswith("40 utterances, 20 speakers, 0 failed, 0 without reference, normalizer basic@2")


def test_a_single_utterance_gives_rates_and_no_test(tmp_path: Path) -> None:
    lines = compare(tmp_path, [row("x", "one two three")], [row("x", "one two")])
    assert "wer 0.00%, 0 errors / 3 tokens" in lines[0]
    assert lines[-1].endswith(": -33.33%; 1 utterance; no test: fewer than two utterances in each set, or no variance")


@pytest.mark.parametrize("damage", ['{"text": "two"}', '{"id": 3}', "[]"])
def test_a_line_without_an_id_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "x", "text": "one", "pred_text": "one"}\n' + damage + "\n")
    with pytest.raises(InputError, match=r"a\.jsonl:2: `id` is missing or not a string; give files written by"):
        list(compare_transcripts([path, path], "basic"))


def test_a_duplicate_id_is_refused_with_its_line_numbers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"b\.jsonl:3: id 'x' is also in line 1; make it unique"):
        compare(tmp_path, [row("x", "one")], [row("x", "one"), row("y", "two"), row("x", "three")])


@pytest.mark.parametrize("other", [{"text": "another thing"}, {"text": None}, {"language": "German"}])
def test_different_references_or_languages_are_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    key = next(iter(other))
    with pytest.raises(InputError, match=rf"b\.jsonl: id 'x' has another `{key}` than in .*a\.jsonl; compare outputs"):
        compare(tmp_path, [row("x", "one")], [row("x", "one") | other])


def test_the_name_and_the_code_of_a_language_are_equal(tmp_path: Path) -> None:
    assert len(compare(tmp_path, [row("x", "one")], [row("x", "two", language="en")])) == 3


def test_empty_references_have_no_rates_to_compare(tmp_path: Path) -> None:
    line = compare(tmp_path, [row("x", "one", text="")], [row("x", "one two", text="")])[-1]
    assert line.endswith("no reference tokens in 1 shared utterances, so no rates to compare")
    mixed = [row("x", "one", text=""), row("y", "one two three")], [row("x", "one two", text=""), row("y", "one two")]
    assert "%" in (line := compare(tmp_path, *mixed)[-1])
    assert len(line.split("(95% ")[1].split(")")[0]) < len("+100.00% to +100.00%") + 1
