import json
from pathlib import Path
from typing import Any

from arkasr.report.run_folder import read_run
from arkasr.report.utterances import AlignedTranscript, AlignmentChunk, Limits, load_shown_test_set
from tests.report.example_run import VARIANTS, build_run, write_lines


def write_transcripts(run_path: Path, variant: str, *rows: dict[str, Any], name: str = "en-clean") -> None:
    write_lines(run_path / "evaluations" / variant / f"{name}.jsonl", rows)


def only_base(run_path: Path, *rows: dict[str, Any], name: str = "en-clean") -> None:
    """Make these the only transcripts: `base` has them, the other variants have none."""
    for variant in VARIANTS:
        write_transcripts(run_path, variant, name=name)
    write_transcripts(run_path, "base", *rows, name=name)


def test_errors_are_marked_by_kind_after_normalisation(run_path: Path) -> None:
    reference, hypothesis = "Seven red boats left the harbour.", "oh yes seven bread boats left harbour"
    only_base(run_path, {"id": "a", "text": reference, "pred_text": hypothesis})
    (item,) = load_shown_test_set(read_run(run_path), "en-clean", Limits()).utterances
    assert item.reference == "seven red boats left the harbour"
    assert item.transcripts == [
        AlignedTranscript(
            "base",
            [
                AlignmentChunk("insert", "", "oh yes"),
                AlignmentChunk("equal", "seven", "seven"),
                AlignmentChunk("substitute", "red", "bread"),
                AlignmentChunk("equal", "boats left", "boats left"),
                AlignmentChunk("delete", "the", ""),
                AlignmentChunk("equal", "harbour", "harbour"),
            ],
            errors=4,
            reference_tokens=6,
        )
    ]


def test_character_error_rates_are_marked_by_character(run_path: Path) -> None:
    only_base(run_path, {"id": "a", "text": "今天下午", "pred_text": "今年下午"}, name="zh-read")
    (item,) = load_shown_test_set(read_run(run_path), "zh-read", Limits()).utterances
    assert item.transcripts[0].chunks == [
        AlignmentChunk("equal", "今", "今"),
        AlignmentChunk("substitute", "天", "年"),
        AlignmentChunk("equal", "下午", "下午"),
    ]


def test_chunks_agree_with_the_scored_errors(tmp_path: Path) -> None:
    run = read_run(build_run(tmp_path / "run", utterances=20))
    for name in run.test_sets:
        shown = load_shown_test_set(run, name, Limits())
        for variant in run.variants:
            errors = sum(item.errors_of(variant) for item in shown.utterances)
            (score,) = (row for row in run.scores if row.variant == variant and row.set == name)
            # The example counts the edits it made; an alignment may need fewer, never more.
            assert 0.8 * score.errors <= errors <= score.errors


def test_failures_and_missing_references_are_distinguished(run_path: Path) -> None:
    only_base(
        run_path,
        {"id": "a", "text": "one two", "error": "holds no audio"},
        {"id": "b", "pred_text": "something"},
        {"id": "c", "text": "one two", "pred_text": ""},
    )
    failed, unreferenced, silent = load_shown_test_set(read_run(run_path), "en-clean", Limits()).utterances
    assert failed.transcripts == [AlignedTranscript("base", [], failure="holds no audio")]
    assert unreferenced.reference is None
    assert unreferenced.transcripts == [AlignedTranscript("base", [AlignmentChunk("equal", "something", "something")])]
    assert silent.transcripts == [AlignedTranscript("base", [AlignmentChunk("delete", "one two", "")], 2, 2)]


def test_utterances_with_the_most_errors_are_kept_in_the_manifests_order(run_path: Path) -> None:
    texts = {"a": "one two three", "b": "one two three", "c": "one", "d": "one two"}
    rows = [{"id": key, "text": text, "pred_text": "", "errors": len(text.split())} for key, text in texts.items()]
    only_base(run_path, *rows)
    limits = Limits(utterances_per_set=3, clips_per_set=2)
    shown = load_shown_test_set(read_run(run_path), "en-clean", limits)
    assert [item.id for item in shown.utterances] == ["a", "b", "d"]
    assert [item.clip is not None for item in shown.utterances] == [True, True, False]
    assert (shown.total, shown.left_out, shown.without_clip) == (4, 1, 1)


def test_variants_are_paired_by_id_not_by_line(run_path: Path) -> None:
    path = run_path / "evaluations" / "base" / "en-clean.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    for item in load_shown_test_set(read_run(run_path), "en-clean", Limits()).utterances:
        assert [transcript.variant for transcript in item.transcripts] == list(VARIANTS)
        assert all("".join(p.reference for p in transcript.chunks) for transcript in item.transcripts)


def test_a_missing_recording_does_not_affect_the_others(run_path: Path) -> None:
    path = run_path / "evaluations" / "teacher" / "en-clean.jsonl"
    first = json.loads(path.read_text().splitlines()[0])
    Path(first["audio_path"]).unlink()
    items = load_shown_test_set(read_run(run_path), "en-clean", Limits()).utterances
    clips = [item.clip for item in items]
    assert [clip.missing for clip in clips if clip] == ["recording not found", None, None, None]
    assert items[0].facts == ["speaker0", "English", "0.5 s"]
    assert items[0].language_code == "en"
