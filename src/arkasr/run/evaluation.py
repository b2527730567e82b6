"""Evaluation of variants: their transcripts of the test sets, and `results.json`."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from arkasr import processes
from arkasr.data.manifests.manifest import Utterance, read_rows, write_manifest
from arkasr.data.manifests.output_fields import SCORED_FIELDS, drop_fields
from arkasr.errors import InputError
from arkasr.evaluate.error_rate import count_errors
from arkasr.evaluate.normalize import Profile, Unit, get_profile, unit_for
from arkasr.evaluate.scoring import (
    MODEL_SCOPE,
    Score,
    metric_name,
    number_of_speakers,
    prediction_of,
    results_row,
    score,
)
from arkasr.evaluate.significance import bootstrap_interval
from arkasr.progress import Progress
from arkasr.recipe.settings import OpdStageSettings, Recipe
from arkasr.recognizers.inference import RecognitionSettings, recognize
from arkasr.recognizers.recognition import Recognition
from arkasr.recognizers.recognizer import Recognizer
from arkasr.report.results import POOLED
from arkasr.run.context import RunContext
from arkasr.run.development import profile_name
from arkasr.run.inputs import Inputs
from arkasr.run.result_rows import comparison_rows, resampling_units, seed_means
from arkasr.run.resumable_work import ResumableWork, Row


def is_evaluated(context: RunContext, variant: str, seed: int) -> bool:
    """Whether a variant's transcripts of all test sets exist."""
    return all(context.folder.predictions(variant, seed, name).exists() for name in context.recipe.evaluation.sets)


def evaluate_variant(context: RunContext, inputs: Inputs, variant: str, seed: int, progress: Progress) -> None:
    """Transcribe every test set that this variant has not transcribed yet.

    Raises:
        InputError: the variant has not been trained, or its model or a test set has changed since the run used it.
    """
    recipe, folder = context.recipe, context.folder
    names = processes.broadcast_from_first(
        lambda: [name for name in recipe.evaluation.sets if not folder.predictions(variant, seed, name).exists()]
    )
    if processes.is_first_rank():  # a killed run may have left the parts of finished sets
        for name in set(recipe.evaluation.sets) - set(names):
            shutil.rmtree(folder.prediction_parts(variant, seed, name), ignore_errors=True)
    if not names:
        return
    inputs.check_variant(variant)
    work = {name: ResumableWork(folder.prediction_parts(variant, seed, name), context.set(name)) for name in names}
    missing = {name: transcription.missing() for name, transcription in work.items()}
    recognizer = processes.raise_if_any_fails(
        lambda: context.recognizer(recipe.variants[variant], seed) if any(missing.values()) else None
    )
    inputs.record()  # recorded before the first part, so that a resumed run can refuse another model
    if recognizer is not None:
        total = sum(len(part) for parts in missing.values() for part in parts)
        with progress.count(f"evaluate {variant} (seed {seed})", total) as advance:
            for name, parts in missing.items():
                _transcribe(context, recognizer, name, work[name], parts, advance)
    processes.barrier()
    processes.broadcast_from_first(lambda: _write_predictions(context, variant, seed, work))


def _transcribe(
    context: RunContext,
    recognizer: Recognizer,
    set_name: str,
    work: ResumableWork,
    missing: Sequence[range],
    on_batch: Callable[[int], None],
) -> None:
    """Transcribe the missing parts of one test set."""
    settings = context.recipe.evaluation
    limits = RecognitionSettings(settings.batch_seconds, settings.max_new_tokens)
    profile, unit = scoring_of(context, set_name)

    def transcribe(utterances: Sequence[Utterance]) -> list[Row]:
        recognitions = recognize(recognizer, utterances, limits, feature_cache=context.feature_cache, on_batch=on_batch)
        return [
            prediction_row(utterance, recognition, profile, unit)
            for utterance, recognition in zip(utterances, recognitions, strict=True)
        ]

    for part in missing:
        work.do(part, transcribe)


def _write_predictions(context: RunContext, variant: str, seed: int, work: Mapping[str, ResumableWork]) -> None:
    for name, transcription in work.items():
        write_manifest(context.folder.predictions(variant, seed, name), transcription.rows())
        transcription.remove()


def scoring_of(context: RunContext, set_name: str) -> tuple[Profile, Unit]:
    """Normaliser and unit of a test set, from the language of its utterances.

    Raises:
        InputError: its languages need different normalisers or units.
    """
    settings = context.recipe.evaluation
    scorings = {
        (profile_name(settings, utterance.language), unit_for(utterance.language))
        for utterance in context.set(set_name)
    }
    if len(scorings) > 1:
        raise InputError(
            f"sets.{set_name}: its languages need different normalisers or units; "
            "make one set per language with the key `language`"
        )
    name, unit = scorings.pop()
    return get_profile(name), unit


def prediction_row(utterance: Utterance, recognition: Recognition, profile: Profile, unit: Unit) -> dict[str, Any]:
    """The manifest line with its transcript and errors, or with the reason why there is no transcript."""
    row = drop_fields(utterance.fields, SCORED_FIELDS) | {"id": utterance.id, "audio_path": str(utterance.audio)}
    if recognition.text is None:
        return row | {"error": recognition.error}
    row |= {"pred_text": recognition.text, "pred_text_raw": recognition.raw}
    if recognition.flags:
        row["pred_flags"] = list(recognition.flags)
    if utterance.text is not None:
        count = count_errors(profile(utterance.text), profile(recognition.text), unit)
        row |= {"errors": count.errors, "reference_tokens": count.reference_tokens}
    return row


def collect_results(context: RunContext) -> dict[str, Any]:
    """The content of `results.json`: scores, means over seeds, comparisons, and the support before each OPD stage."""
    recipe = context.recipe
    scores = {
        (variant, seed, name): _score(context, variant, seed, name)
        for variant, stage in recipe.variants.items()
        for seed in recipe.seeds
        if context.seed_of(stage, seed) == seed  # a stage with `once` counts for the first seed only
        for name in recipe.evaluation.sets
    }
    ran_once = {variant: stages_run_once(recipe, stage) for variant, stage in recipe.variants.items()}
    return {
        "recipe": recipe.name,
        "seeds": recipe.seeds,
        "rows": [results_row(variant, seed, name, result) for (variant, seed, name), result in scores.items()],
        "pooled": _pooled_rows(context, scores),
        "over_seeds": seed_means(recipe.evaluation, scores, ran_once),
        "comparisons": comparison_rows(recipe.evaluation, scores, ran_once),
        "support": _support_rows(context),
    }


def stages_run_once(recipe: Recipe, name: str) -> list[str]:
    """The first stage with `once` on each path from a stage back through `start`, `train` and `teacher`.

    A label stage with `once` is listed if its `start` stage runs for every seed. If its `start` stage has `once`, that
    stage is listed instead. If its `start` is a model, nothing is listed.
    """
    if name not in recipe.stages:
        return []
    stage = recipe.stages[name]
    if stage.once and stage.kind == "label":
        start = recipe.stages.get(stage.start)
        return [name] if start is not None and not start.once else stages_run_once(recipe, stage.start)
    if stage.once:
        return [name]
    inputs = [used for key in ("start", "train", "teacher") if (used := getattr(stage, key, None))]
    return list(dict.fromkeys(ancestor for used in inputs for ancestor in stages_run_once(recipe, used)))


def _score(context: RunContext, variant: str, seed: int, name: str) -> Score:
    path = context.folder.predictions(variant, seed, name)
    predictions = [prediction_of(row) for row in read_rows(path)]
    profile, unit = scoring_of(context, name)
    settings = context.recipe.evaluation
    by_speaker = settings.resample == "speaker"
    return score(predictions, profile=profile, unit=unit, by_speaker=by_speaker, samples=settings.samples)


def _pooled_rows(context: RunContext, scores: dict[tuple[str, int, str], Score]) -> list[dict[str, Any]]:
    """Scores of every variant and seed over all test sets.

    With `resample: utterance`, each bootstrap sample keeps the size of each set.
    """
    settings = context.recipe.evaluation
    rows = []
    for variant, seed in dict.fromkeys((variant, seed) for variant, seed, _ in scores):
        parts = {name: scores[variant, seed, name] for name in settings.sets}
        scored = [(name, item) for name, part in parts.items() for item in part.scored]
        counts = [count for part in parts.values() for count in part.counts]
        tokens = sum(part.reference_tokens for part in parts.values())
        errors = sum(part.errors for part in parts.values())
        row: dict[str, Any] = {"variant": variant, "seed": seed, "set": POOLED, "errors": errors}
        row |= {"reference_tokens": tokens, "rate": errors / tokens if tokens else None}
        interval = bootstrap_interval(
            [count.errors for count in counts],
            [count.reference_tokens for count in counts],
            samples=settings.samples,
            **resampling_units(settings, [name for name, _ in scored], [item.speaker for _, item in scored]),
        )
        row |= {"ci95": list(interval) if interval else None, "ci95_of": MODEL_SCOPE.format(settings.resample)}
        row["metric"] = " + ".join(sorted({metric_name(part.unit) for part in parts.values()}, reverse=True))
        row["utterances"] = len(scored)
        row["speakers"] = number_of_speakers([item for _, item in scored])
        row["failed"] = sum(part.failed for part in parts.values())
        row["truncated"] = sum(part.truncated for part in parts.values())
        row["normalizer"] = ", ".join(dict.fromkeys(part.normalizer for part in parts.values()))
        rows.append(row)
    return rows


def _support_rows(context: RunContext) -> list[dict[str, Any]]:
    """The support measured before each OPD stage.

    In a row, `variant` names what the OPD stage starts from: the variant of that stage or model if there is one, else
    the name itself.
    """
    recipe = context.recipe
    variant_of = {stage: variant for variant, stage in recipe.variants.items()}
    rows = []
    for name, stage in recipe.stages.items():
        if not isinstance(stage, OpdStageSettings):
            continue
        for seed in recipe.seeds:
            path = context.folder.stage(name, seed) / "calibration.json"
            if path.exists():
                figures = json.loads(path.read_text(encoding="utf-8"))
                if "vuss_mean" not in figures:
                    continue
                rows.append(
                    {"variant": variant_of.get(stage.start, stage.start), "seed": seed, "before": name} | figures
                )
    return rows
