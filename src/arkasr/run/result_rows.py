"""Means over seeds and comparisons of variants, from the errors of every utterance under every seed.

In: scores by variant, seed and test set. Out: rows of `results.json`. Reads and writes no files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from arkasr.evaluate.scoring import Prediction, Score, comparison_row, metric_name, number_of_speakers
from arkasr.evaluate.significance import Comparison, mean_over_seeds, paired_comparison, shared_stages_phrase
from arkasr.recipe.settings import EvaluationSettings
from arkasr.report.results import POOLED

Scores = Mapping[tuple[str, int, str], Score]  # by variant, seed and test set
RanOnce = Mapping[str, Sequence[str]]  # by variant: the stages it depends on that ran once for all seeds


@dataclass(frozen=True)
class _Utterance:
    set_name: str
    id: str
    speaker: str | None


def seeds_of(scores: Scores, variant: str) -> list[int]:
    """The seeds under which a variant was scored."""
    return sorted({seed for name, seed, _ in scores if name == variant})


def seed_means(settings: EvaluationSettings, scores: Scores, ran_once: RanOnce) -> list[dict[str, Any]]:
    """Mean rate over seeds of each variant with several seeds, for each test set and pooled.

    Only utterances that every seed has transcribed count.
    """
    rows = []
    for variant in dict.fromkeys(variant for variant, _, _ in scores):
        seeds = seeds_of(scores, variant)
        for name in [*settings.sets, POOLED] if len(seeds) > 1 else []:
            sets = settings.sets if name == POOLED else [name]
            errors, tokens = _errors(scores, variant, sets)
            if any(tokens[key] for key in errors):
                parts = [scores[variant, seeds[0], part] for part in sets]
                mean = _seed_mean(settings, parts, errors, tokens)
                mean["ci95_of"] = (
                    f"the recipe{shared_stages_phrase(ran_once[variant])}, "
                    f"over {len(seeds)} training seeds and {settings.resample}s"
                )
                rows.append({"variant": variant, "set": name} | mean)
    return rows


def comparison_rows(settings: EvaluationSettings, scores: Scores, ran_once: RanOnce) -> list[dict[str, Any]]:
    """The recipe's comparisons, pooled and for each test set.

    Only utterances that every seed of both variants has transcribed count.
    """
    rows = []
    for a, b in settings.comparisons:
        shared = [stage for name in (a, b) if len(seeds_of(scores, name)) > 1 for stage in ran_once[name]]
        for name in [POOLED, *settings.sets]:
            comparison = _comparison(settings, scores, a, b, settings.sets if name == POOLED else [name])
            if comparison is not None:
                rows.append(comparison_row(a, b, name, comparison, list(dict.fromkeys(shared))))
    return rows


def _seed_mean(
    settings: EvaluationSettings,
    parts: Sequence[Score],
    errors: Mapping[_Utterance, list[int]],
    tokens: Mapping[_Utterance, int],
) -> dict[str, Any]:
    counts = np.array(list(errors.values())).T
    mean = mean_over_seeds(counts, [tokens[key] for key in errors], **_units_of(settings, list(errors)))
    return {
        "metric": " + ".join(sorted({metric_name(part.unit) for part in parts}, reverse=True)),
        "seeds": len(counts),
        "rate": mean.rate,
        "deviation": mean.deviation,
        "ci95": list(mean.ci95) if mean.ci95 else None,
        "utterances": len(errors),
        "speakers": number_of_speakers([Prediction(key.id, None, None, key.speaker) for key in errors]),
        "normalizer": ", ".join(dict.fromkeys(part.normalizer for part in parts)),
    }


def _comparison(settings: EvaluationSettings, scores: Scores, a: str, b: str, sets: Sequence[str]) -> Comparison | None:
    """None if the two share no transcribed utterance with a reference token."""
    errors_a, tokens = _errors(scores, a, sets)
    errors_b, _ = _errors(scores, b, sets)
    shared = [key for key in errors_a if key in errors_b]
    if not any(tokens[key] for key in shared):
        return None
    return paired_comparison(
        np.array([errors_a[key] for key in shared]).T,
        np.array([errors_b[key] for key in shared]).T,
        [tokens[key] for key in shared],
        samples=settings.samples,
        **_units_of(settings, shared),
    )


def resampling_units(
    settings: EvaluationSettings, set_names: Sequence[str], speakers: Sequence[str | None]
) -> dict[str, Any]:
    """Arguments for resampling: speakers across all sets, or utterances stratified by set.

    Args:
        settings: `resample` chooses between the two.
        set_names: `[U]`, the test set of each utterance.
        speakers: `[U]`.
    """
    return {"groups": speakers} if settings.resample == "speaker" else {"strata": set_names}


def _units_of(settings: EvaluationSettings, keys: Sequence[_Utterance]) -> dict[str, Any]:
    return resampling_units(settings, [key.set_name for key in keys], [key.speaker for key in keys])


def _errors(
    scores: Scores, variant: str, sets: Sequence[str]
) -> tuple[dict[_Utterance, list[int]], dict[_Utterance, int]]:
    """Errors of every utterance under each seed of a variant, and its reference tokens.

    An utterance that failed under some seed is left out.
    """
    seeds = seeds_of(scores, variant)
    errors: dict[_Utterance, list[int]] = {}
    tokens: dict[_Utterance, int] = {}
    for name in sets:
        for seed in seeds:
            result = scores[variant, seed, name]
            for item, count in zip(result.scored, result.counts, strict=True):
                key = _Utterance(name, item.id, item.speaker)
                errors.setdefault(key, []).append(count.errors)
                tokens[key] = count.reference_tokens
    return {key: values for key, values in errors.items() if len(values) == len(seeds)}, tokens
