"""The command `compare`: systems against each other on the transcripts that `evaluate` wrote, without any model."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from arkasr.data.languages import canonical_language
from arkasr.data.manifests.manifest import read_rows
from arkasr.errors import InputError
from arkasr.evaluate.normalize import Profile, get_profile, unit_for
from arkasr.evaluate.scoring import Prediction, Score, metric_name, number_of_speakers, prediction_of, score
from arkasr.evaluate.significance import paired_comparison
from arkasr.report.wording import count, few_speakers


def compare_transcripts(paths: Sequence[Path], normalizer: str) -> Iterator[str]:
    """Compare the first system with each other one, by language, on the utterances that both have transcribed.

    Raises:
        InputError: fewer than two files, a file is not an output of `evaluate`, two files share no utterance, or an
            utterance has different references or languages.
    """
    if len(paths) < 2:
        raise InputError("compare: give two or more files written by `arkasr evaluate -o`")
    systems = {path: _read_rows(path) for path in paths}
    for path in paths[1:]:
        _refuse_different_references(paths[0], systems[paths[0]], path, systems[path])
    profile = get_profile(normalizer)
    scores = {path: scores_by_language(rows, profile) for path, rows in systems.items()}
    for path, by_language in scores.items():
        for language, result in by_language.items():
            yield f"{path}: {language}: {describe(result)}"
    for path in paths[1:]:
        languages = [language for language in scores[paths[0]] if language in scores[path]]
        lines = [_comparison(paths[0], path, name, scores[paths[0]][name], scores[path][name]) for name in languages]
        if not any(lines):
            raise InputError(f"{path}: shares no utterance with {paths[0]}; compare outputs of the same manifest")
        yield from filter(None, lines)


def _comparison(a: Path, b: Path, language: str, score_a: Score, score_b: Score) -> str | None:
    """One line that compares two systems in one language; None if they share no utterance."""
    counts_a = {item.id: count for item, count in zip(score_a.scored, score_a.counts, strict=True)}
    counts_b = {item.id: count for item, count in zip(score_b.scored, score_b.counts, strict=True)}
    shared = [name for name in counts_a if name in counts_b]
    if not shared:
        return None
    tokens = [counts_a[name].reference_tokens for name in shared]
    if not any(tokens):
        return f"{a} - {b}: {language}: no reference tokens in {len(shared)} shared utterances, so no rates to compare"
    comparison = paired_comparison(
        [counts_a[name].errors for name in shared], [counts_b[name].errors for name in shared], tokens
    )
    predictions = [item for item in score_a.scored if item.id in counts_b]
    difference = f"{a} - {b}: {language}: {comparison.difference:+.2%}"
    if comparison.ci95 is None:
        return f"{difference}; {_size(predictions)}; {comparison.test}"
    low, high = comparison.ci95
    return (
        f"{difference} (95% {low:+.2%} to {high:+.2%}), p = {comparison.p:.4f}, "
        f"holds for {comparison.speaks_of(str(a), str(b))}; {_size(predictions)}; {comparison.test}"
        f"{_interval_caveat(predictions)}"
    )


def _size(predictions: Sequence[Prediction]) -> str:
    """The number of utterances, and of speakers if every utterance names one."""
    speakers = number_of_speakers(predictions)
    named = "" if speakers is None else f", {count(speakers, 'speaker')}"
    return count(len(predictions), "utterance") + named


def _interval_caveat(predictions: Sequence[Prediction]) -> str:
    """A clause that warns of few speakers; empty if there are enough."""
    clause = few_speakers(number_of_speakers(predictions), "utterances", has_seeds=False)
    return f"; {clause}" if clause else ""


def _refuse_different_references(
    a: Path, rows_a: Mapping[str, dict[str, Any]], b: Path, rows_b: Mapping[str, dict[str, Any]]
) -> None:
    for name, row in rows_a.items():
        for key in ("text", "language") if name in rows_b else ():
            if _field_of(row, key) != _field_of(rows_b[name], key):
                raise InputError(
                    f"{b}: id {name!r} has another `{key}` than in {a}; compare outputs of the same manifest"
                )


def _field_of(row: Mapping[str, Any], key: str) -> str | None:
    value = row.get(key)
    return canonical_language(value) if key == "language" and value else value


def describe(result: Score) -> str:
    """A score in one line."""
    rate = "no reference tokens" if result.rate is None else f"{result.rate:.2%}"
    interval = f" (95% {result.ci95[0]:.2%} to {result.ci95[1]:.2%})" if result.ci95 else ""
    cut_off = f"{result.truncated} cut off at the limit of tokens, " if result.truncated else ""
    return (
        f"{metric_name(result.unit)} {rate}{interval}, {result.errors} errors / {result.reference_tokens} tokens, "
        f"{_size(result.scored)}, {result.failed} failed, {cut_off}{result.unscored} without reference, "
        f"normalizer {result.normalizer}{_interval_caveat(result.scored) if result.ci95 else ''}"
    )


def scores_by_language(rows: Mapping[str, dict[str, Any]], profile: Profile) -> dict[str, Score]:
    """A score for each language. Languages are not pooled: their units and difficulty differ."""
    by_language: dict[str | None, list[dict[str, Any]]] = {}
    for row in rows.values():
        by_language.setdefault(_field_of(row, "language") or None, []).append(row)
    return {
        language or "no language given": score(
            [prediction_of(row) for row in group],
            profile=profile,
            unit=unit_for(language),
        )
        for language, group in by_language.items()
    }


def _read_rows(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give files written by `arkasr evaluate -o`")
    rows: dict[str, dict[str, Any]] = {}
    lines: dict[str, int] = {}
    for number, row in enumerate(read_rows(path), start=1):
        name = row.get("id") if isinstance(row, dict) else None
        if not isinstance(name, str):
            raise InputError(
                f"{path}:{number}: `id` is missing or not a string; give files written by `arkasr evaluate -o`"
            )
        if name in rows:
            raise InputError(f"{path}:{number}: id {name!r} is also in line {lines[name]}; make it unique")
        rows[name], lines[name] = row, number
    if not rows:
        raise InputError(f"{path}: contains no transcripts; give files written by `arkasr evaluate -o`")
    return rows
