import json
from pathlib import Path
from typing import Any

from arkasr.report.run_folder import read_run
from arkasr.report.utterances import Attempt, Limits, Piece, load_shown_set
from tests.report.example_run import VARIANTS, build_run, write_lines


def write_transcripts(run_path: Path, variant: str, *rows: dict[str, Any], name: str = "en-clean") -> None:
    write_lines(run_path / "evaluations" / variant / f"{name}.jsonl", rows)


def only_base(run_path: Path, *rows: dict[str, Any], name: str = "en-clean") -> None:
    """Let `base` have written these, and the others nothing."""
    for variant in VARIANTS:
        write_transcripts(run_path, variant, name=name)
    write_transcripts(run_path, "base", *rows, name=name)


def test_errors_are_marked_by_kind_after_the_normaliser(run_path: Path) -> None:
    told, heard = "Seven red boats left the harbour.", "oh yes seven bread boats left harbour"
    only_base(run_path, {"id": "a", "text": told, "pred_text": heard})
    (item,) = load_shown_set(read_run(run_path), "en-clean", Limits()).items
    assert item.reference == "seven red boats left the harbour"
    assert item.attempts == [
        Attempt(
            "base",
            [
                Piece("insert", "", "oh yes"),
                Piece("equal", "seven", "seven"),
                Piece("substitute", "red", "bread"),
                Piece("equal", "boats left", "boats left"),
                Piece("delete", "the", ""),
                Piece("equal", "harbour", "harbour"),
            ],
            errors=4,
            reference_tokens=6,
        )
    ]


def test_character_error_rates_are_marked_by_character(run_path: Path) -> None:
    only_base(run_path, {"id": "a", "text": "今天下午", "pred_text": "今年下午"}, name="zh-read")
    (item,) = load_shown_set(read_run(run_path), "zh-read", Limits()).items
    assert item.attempts[0].pieces == [
        Piece("equal", "今", "今"),
        Piece("substitute", "天", "年"),
        Piece("equal", "下午", "下午"),
    ]


def test_pieces_agree_with_the_errors_that_were_scored(tmp_path: Path) -> None:
    run = read_run(build_run(tmp_path / "run", utterances=20))
    for name in run.test_sets:
        shown = load_shown_set(run, name, Limits())
        for variant in run.variants:
            lowest = sum(item.errors_of(variant) for item in shown.items)
            (score,) = (row for row in run.scores if row.variant == variant and row.set == name)
            # The example counts the edits it made; an alignment may need fewer, never more.
            assert 0.8 * score.errors <= lowest <= score.errors


def test_a_failure_and_a_missing_reference_are_shown_as_such(run_path: Path) -> None:
    only_base(
        run_path,
        {"id": "a", "text": "one two", "error": "holds no audio"},
        {"id": "b", "pred_text": "something"},
        {"id": "c", "text": "one two", "pred_text": ""},
    )
    failed, unreferenced, silent = load_shown_set(read_run(run_path), "en-clean", Limits()).items
    assert failed.attempts == [Attempt("base", [], failure="holds no audio")]
    assert unreferenced.reference is None
    assert unreferenced.attempts == [Attempt("base", [Piece("equal", "something", "something")])]
    assert silent.attempts == [Attempt("base", [Piece("delete", "one two", "")], 2, 2)]


def test_the_hardest_utterances_are_kept_and_heard_in_the_manifests_order(run_path: Path) -> None:
    texts = {"a": "one two three", "b": "one two three", "c": "one", "d": "one two"}
    rows = [{"id": key, "text": text, "pred_text": "", "errors": len(text.split())} for key, text in texts.items()]
    only_base(run_path, *rows)
    limits = Limits(utterances_per_set=3, clips_per_set=2)
    shown = load_shown_set(read_run(run_path), "en-clean", limits)
    assert [item.id for item in shown.items] == ["a", "b", "d"]
    assert [item.clip is not None for item in shown.items] == [True, True, False]
    assert (shown.total, shown.left_out, shown.without_clip) == (4, 1, 1)


def test_variants_are_paired_by_id_not_by_line(run_path: Path) -> None:
    path = run_path / "evaluations" / "base" / "en-clean.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    for item in load_shown_set(read_run(run_path), "en-clean", Limits()).items:
        assert [attempt.variant for attempt in item.attempts] == list(VARIANTS)
        assert all("".join(p.reference for p in attempt.pieces) for attempt in item.attempts)


def test_a_recording_that_is_gone_does_not_stop_the_others(run_path: Path) -> None:
    path = run_path / "evaluations" / "teacher" / "en-clean.jsonl"
    first = json.loads(path.read_text().splitlines()[0])
    Path(first["audio_path"]).unlink()
    items = load_shown_set(read_run(run_path), "en-clean", Limits()).items
    clips = [item.clip for item in items]
    assert [clip.missing for clip in clips if clip] == ["recording not found", None, None, None]
    assert items[0].facts == ["speaker0", "English", "0.5 s"]
    assert items[0].language_code == "en"
