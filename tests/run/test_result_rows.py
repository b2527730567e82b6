"""Rows of `results.json` over several seeds, from scores of real transcripts."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from arkasr.evaluate.normalize import get_profile
from arkasr.evaluate.scoring import Prediction, Score, results_row, score
from arkasr.recipe.load import load_settings
from arkasr.recipe.settings import EvaluationSettings, Recipe
from arkasr.run.evaluation import stages_run_once
from arkasr.run.result_rows import comparison_rows, seed_means

WORDS = ["one", "two", "three", "four", "five", "six"]
RAN_ONCE = {"base": [], "opd": ["teacher"], "teacher": ["teacher"]}
Scores = dict[tuple[str, int, str], Score]


def scored(variant: str, seed: int, name: str, wrong: float, failed: Sequence[int] = ()) -> Score:
    """Thirty utterances; the same five speakers in every set."""
    generator = random.Random(f"{variant} {seed} {name}")
    predictions = []
    for index in range(30):
        transcript = " ".join("oh" if generator.random() < wrong else word for word in WORDS)
        hypothesis = None if index in failed else transcript
        predictions.append(Prediction(str(index), " ".join(WORDS), hypothesis, f"s{index % 5}"))
    return score(predictions, profile=get_profile("basic"), unit="word", samples=200)


@pytest.fixture
def scores() -> Scores:
    scores = {
        (variant, seed, name): scored(variant, seed, name, wrong, failed=[3] if seed == 2 else [])
        for variant, wrong in (("base", 0.3), ("opd", 0.2))
        for seed in (0, 1, 2)
        for name in ("first", "second")
    }
    return scores | {("teacher", 0, name): scored("teacher", 0, name, 0.1) for name in ("first", "second")}


def settings(**changes: Any) -> EvaluationSettings:
    values = {"comparisons": [("opd", "base"), ("opd", "teacher")]} | changes
    return EvaluationSettings(sets=["first", "second"], samples=200, **values)


def test_a_variant_of_several_seeds_has_one_row_per_set_and_a_pooled_row(scores: Scores) -> None:
    rows = seed_means(settings(), scores, RAN_ONCE)
    assert [(row["variant"], row["set"]) for row in rows] == [
        (variant, name) for variant in ("base", "opd") for name in ("first", "second", "pooled")
    ]
    pooled = rows[2]
    assert (pooled["utterances"], pooled["speakers"], pooled["seeds"]) == (58, 5, 3)
    assert pooled["ci95"][0] < pooled["rate"] < pooled["ci95"][1]
    assert [rows[0]["ci95_of"], pooled["ci95_of"]] == ["the recipe, over 3 training seeds and utterances"] * 2
    scope = "the recipe with this one run of teacher, over 3 training seeds and utterances"
    assert rows[-1]["ci95_of"] == scope
    assert pooled["deviation"] > 0


def test_a_set_of_empty_references_has_no_row_and_no_comparison() -> None:
    silent = score(
        [Prediction(name, "", "oh") for name in "xy"], profile=get_profile("basic"), unit="word", samples=200
    )
    scores = {(variant, seed, "silent"): silent for variant in ("opd", "base") for seed in (0, 1)}
    only_silent = EvaluationSettings(sets=["silent"], comparisons=[("opd", "base")], samples=200)
    assert silent.ci95 is None
    assert seed_means(only_silent, scores, RAN_ONCE) == comparison_rows(only_silent, scores, RAN_ONCE) == []


def test_one_speaker_gives_rates_and_no_interval(scores: Scores) -> None:
    def with_one_speaker(result: Score) -> Score:
        return replace(result, scored=[replace(item, speaker="s") for item in result.scored])

    one_speaker = {key: with_one_speaker(result) for key, result in scores.items()}
    by_speaker = settings(resample="speaker")
    assert {row["ci95"] for row in seed_means(by_speaker, one_speaker, RAN_ONCE)} == {None}
    rows = comparison_rows(by_speaker, one_speaker, RAN_ONCE)
    assert {(row["ci95"], row["p"], row["degrees_of_freedom"]) for row in rows} == {(None, None, None)}
    assert {row["test"] for row in rows} == {"no test: fewer than two speakers, or no variance"}
    assert all(row["difference"] for row in rows)


def test_comparisons_of_several_seeds_name_what_they_speak_of(scores: Scores) -> None:
    rows = comparison_rows(settings(), scores, RAN_ONCE)
    assert [row["set"] for row in rows] == ["pooled", "first", "second"] * 2
    assert rows[0]["speaks_of"] == "the two recipes with this one run of teacher (3 training seeds)"
    assert rows[0]["test"] == "t test and t interval over training seeds and utterances"
    assert rows[0]["degrees_of_freedom"] >= 2
    condition = "with this one run of teacher (3 training seeds)"
    assert rows[3]["speaks_of"] == f"the recipe of opd {condition} and the one model teacher"
    without_shared_stage = comparison_rows(settings(comparisons=[("base", "teacher")]), scores, RAN_ONCE)
    assert without_shared_stage[0]["speaks_of"] == "the recipe of base (3 training seeds) and the one model teacher"


def test_speakers_are_resampled_across_the_sets(scores: Scores) -> None:
    """Five speakers in two sets count as five. They have 32 sign permutations, so p is at least 2/32."""
    one_seed = {key: result for key, result in scores.items() if key[1] == 0}
    rows = comparison_rows(settings(resample="speaker"), one_seed, RAN_ONCE)
    assert rows[0]["test"].startswith("paired permutation test over speakers")
    assert rows[0]["p"] > 0.03
    assert rows[0]["speaks_of"] == "these two models, not the recipes that made them (one training seed)"


def test_the_interval_of_one_model_says_that_it_is_of_one_model(scores: Scores) -> None:
    row = results_row("base", 0, "first", scores["base", 0, "first"])
    assert (row["ci95_of"], row["utterances"], row["speakers"]) == ("this one model, over utterances", 30, 5)


def test_the_nearest_stages_that_ran_once_are_listed_for_a_variant() -> None:
    """The teacher is listed, but neither the CTC stage that it starts from nor the labels that it wrote."""
    recipe = load_settings(Recipe, Path("recipes/an4.yaml"))
    ran_once = {variant: stages_run_once(recipe, stage) for variant, stage in recipe.variants.items()}
    with_teacher = {"teacher", "base+td", "base+opd", "base+td+opd"}
    assert ran_once == {variant: ["teacher"] if variant in with_teacher else [] for variant in ran_once}
    stages = recipe.stages | {"teacher": recipe.stages["teacher"].model_copy(update={"once": False})}
    assert stages_run_once(recipe.model_copy(update={"stages": stages}), "td") == ["labels"]
