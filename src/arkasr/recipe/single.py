"""One model on one manifest, and transcripts of several systems against each other, for the command line."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from arkasr.data.languages import canonical_language
from arkasr.data.manifest import read_manifest, read_rows, write_manifest
from arkasr.errors import InputError
from arkasr.evaluate.normalize import get_profile, unit_for
from arkasr.evaluate.scoring import Prediction, Score, metric_name, score
from arkasr.evaluate.significance import paired_comparison
from arkasr.model.recognize import RecognitionSettings, recognize
from arkasr.recipe.evaluation import prediction_row
from arkasr.recipe.progress import Progress
from arkasr.teacher.load import load_recognizer


def evaluate_manifest(
    manifest: Path,
    model: str,
    normalizer: str,
    output: Path | None,
    settings: RecognitionSettings,
    device: torch.device,
) -> Iterator[str]:
    """Transcribe a manifest, write the transcripts if asked to, and say the error rate.

    Raises:
        InputError: manifest, model or profile are not there.
    """
    profile = get_profile(normalizer)
    utterances = read_manifest(manifest)
    recognizer = load_recognizer(model, device=str(device))
    with Progress().count("evaluate", len(utterances)) as advance:
        written = recognize(recognizer, utterances, settings, on_batch=advance)
    unit = unit_for(utterances[0].language)
    rows = [
        prediction_row(utterance, recognized, profile, unit)
        for utterance, recognized in zip(utterances, written, strict=True)
    ]
    if output is not None:
        write_manifest(output, rows)
    yield describe(_score(rows, normalizer, utterances[0].language))


def compare_transcripts(paths: Sequence[Path], normalizer: str) -> Iterator[str]:
    """Test the first system against each of the others on the utterances that both have transcribed.

    Raises:
        InputError: fewer than two files, a file is not an output of `evaluate`, or nothing is shared.
    """
    if len(paths) < 2:
        raise InputError("compare: give two or more files written by `arkasr evaluate -o`")
    systems = {path: _read_rows(path) for path in paths}
    named = next(iter(systems[paths[0]].values())).get("language")
    language = canonical_language(named) if named else None
    scores = {path: _score(list(rows.values()), normalizer, language) for path, rows in systems.items()}
    for path, result in scores.items():
        yield f"{path}: {describe(result)}"
    first = {item.id: count for item, count in zip(scores[paths[0]].scored, scores[paths[0]].counts, strict=True)}
    for path in paths[1:]:
        other = {item.id: count for item, count in zip(scores[path].scored, scores[path].counts, strict=True)}
        shared = [name for name in first if name in other]
        if not shared:
            raise InputError(f"{path}: shares no utterance with {paths[0]}; compare outputs of the same manifest")
        comparison = paired_comparison(
            [first[name].errors for name in shared],
            [other[name].errors for name in shared],
            [first[name].reference_tokens for name in shared],
        )
        low, high = comparison.ci95
        yield (
            f"{paths[0]} - {path}: {comparison.difference:+.2%} (95% {low:+.2%} to {high:+.2%}), "
            f"p = {comparison.p:.4f}, {len(shared)} utterances; {comparison.test}"
        )


def describe(result: Score) -> str:
    """A score in one line."""
    rate = "no reference tokens" if result.rate is None else f"{result.rate:.2%}"
    interval = f" (95% {result.ci95[0]:.2%} to {result.ci95[1]:.2%})" if result.ci95 else ""
    return (
        f"{metric_name(result.unit)} {rate}{interval}, {result.errors} errors / {result.reference_tokens} tokens, "
        f"{len(result.scored)} utterances, {result.failed} failed, {result.unscored} without reference, "
        f"normalizer {result.normalizer}"
    )


def _score(rows: Sequence[dict[str, Any]], normalizer: str, language: str | None) -> Score:
    predictions = [Prediction(row["id"], row.get("text"), row.get("pred_text"), row.get("speaker")) for row in rows]
    return score(predictions, profile=get_profile(normalizer), unit=unit_for(language))


def _read_rows(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give files written by `arkasr evaluate -o`")
    try:
        rows = {row["id"]: row for row in read_rows(path)}
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: a line has no `id`; give files written by `arkasr evaluate -o`") from error
    if not rows:
        raise InputError(f"{path}: holds no transcript")
    return rows
