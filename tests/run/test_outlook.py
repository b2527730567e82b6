"""The line before each part of a run: its number, and about how long the rest takes."""

from pathlib import Path

import pytest

from arkasr.recipe.load import load_settings
from arkasr.recipe.settings import Recipe
from arkasr.run.outlook import Outlook, Part, parts_of


class Clock:
    """Seconds that the test sets."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


PARTS = [
    Part("base", "sft", 100.0),
    Part("opd", "opd", 300.0),
    Part("more", "sft", 50.0),
    Part("test", "evaluate", 50.0),
]


@pytest.fixture
def shown():
    return []


def run(outlook, clock, seconds, *, is_finished=False):
    with outlook.next_part(is_finished=is_finished):
        clock.now += seconds


def test_the_rest_is_estimated_from_the_parts_of_the_same_kind_first(shown):
    clock = Clock()
    outlook = Outlook(PARTS, shown.append, clock)
    run(outlook, clock, 60)  # 0.6 s for each unit of work
    run(outlook, clock, 600)  # estimated as 400 units of 0.6 s
    run(outlook, clock, 30)  # 50 units of SFT at 0.6 s, 50 of evaluation at 1.65 s, the mean
    run(outlook, clock, 5)
    assert shown == [
        "1 of 4: base",
        "2 of 4: opd, about 4 min left",
        "3 of 4: more, about 2 min left",
        "4 of 4: test, about 80 s left",
    ]


def test_parts_that_an_earlier_session_has_finished_are_counted_but_not_measured(shown):
    clock = Clock()
    outlook = Outlook(PARTS, shown.append, clock)
    run(outlook, clock, 0, is_finished=True)
    run(outlook, clock, 600)
    run(outlook, clock, 1)
    assert shown == ["2 of 4: opd", "3 of 4: more, about 3 min left"]


def test_every_stage_and_variant_of_a_recipe_is_a_part():
    recipe = load_settings(Recipe, Path("recipes/quickstart.yaml"), ["seeds=[0, 1]"])
    names = [part.name for part in parts_of(recipe, lambda name: 100, lambda name: 8.0)]
    assert len(names) == len(set(names))
    for stage, settings in recipe.stages.items():
        assert (f"{stage} (seed 1)" in names) == (not settings.once)
    assert {name for name in names if name.startswith("evaluate ") and name.endswith("(seed 0)")} == {
        f"evaluate {variant} (seed 0)" for variant in recipe.variants
    }


def test_a_step_of_whisper_has_the_utterances_that_fit_with_their_padding():
    recipe = load_settings(Recipe, Path("recipes/whisper-noise.yaml"), [])
    work = {part.name: part.work for part in parts_of(recipe, lambda name: 700, lambda name: 30.0)}
    assert work["td (seed 0)"] == 1.5 * 60 * 6
    assert work["labels (seed 0)"] == 700
