"""docs/recipe.md: its tables match the settings classes, and its examples run."""

import re
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from arkasr.data.corpora.specs import TEST_SETS
from arkasr.evaluate.normalize import NEWEST
from arkasr.progress import Progress
from arkasr.recipe.load import load_settings, parse
from arkasr.recipe.presets import PRESETS, merged
from arkasr.recipe.recipe_page import MARKED, fill_tables, settings_classes, table
from arkasr.recipe.settings import Recipe
from arkasr.recipe.smoke import shrink
from arkasr.run.run import run_recipe
from arkasr.settings import Settings

PAGE = Path("docs/recipe.md").read_text(encoding="utf-8")
COMPLETE, *EXAMPLES = map(yaml.safe_load, re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
CLASSES = settings_classes()
RECIPES = [*Path("recipes").glob("*.yaml"), *Path("benchmarks").glob("*.yaml")]
UNAVAILABLE = (
    "vllm",
    "served",
    "dataset",
    "pruned_from",
    "decoder",
)  # examples with these words need vLLM, servers or downloads


def recipe_with(*examples):
    document = deepcopy(COMPLETE)
    for example in examples:
        document = merged(document, example)
    return parse(Recipe, document, "docs/recipe.md")


def rows_of_page():
    """Class and cells of every row of the tables."""
    for match in MARKED.finditer(PAGE):
        for line in match[0].splitlines()[3:-1]:
            yield CLASSES[match[1]], *(cell.strip() for cell in line.strip("|").split(" | "))


def keys_set_in(part):
    """The keys that a recipe sets, as Class.key."""
    if isinstance(part, Settings):
        for key in part.model_fields_set:
            owner = next(c for c in reversed(type(part).__mro__) if key in getattr(c, "model_fields", ()))
            yield f"{owner.__name__}.{key}"
            yield from keys_set_in(getattr(part, key))
    elif isinstance(part, dict | list):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from keys_set_in(inner)


def test_the_tables_match_the_settings_classes():
    assert fill_tables(PAGE) == PAGE, "run: python -m arkasr.recipe.recipe_page docs/recipe.md"


def test_a_settings_class_without_a_table_is_an_error():
    with pytest.raises(ValueError, match=r"markers differ from the settings classes: .*'EngineSettings'"):
        fill_tables(PAGE.replace("keys of EngineSettings", "keys"))


def test_every_key_has_a_row_with_its_meaning():
    listed = {(settings, key.strip("`")) for settings, key, _, _, meaning in rows_of_page() if meaning}
    for settings in CLASSES.values():
        for key in getattr(settings, "model_fields", None) or settings.__dataclass_fields__:
            assert any((owner, key) in listed for owner in settings.__mro__), (settings, key)


def test_a_key_without_a_docstring_is_an_error():
    class Undescribed(Settings):
        key: int = 0

    with pytest.raises(ValueError, match=r"Undescribed\.key: has no docstring"):
        table(Undescribed, {})


def test_the_defaults_on_the_page_are_the_real_ones():
    for settings, key, _, default, _ in rows_of_page():
        fields = getattr(settings, "model_fields", None) or settings.__dataclass_fields__
        field = fields[key.strip("`")]
        if default == "required":
            assert field.is_required(), (settings, key)
            continue
        on_page = yaml.safe_load(default.strip("`"))
        if isinstance(field.default, Settings):
            on_page = type(field.default)(**on_page)
        elif isinstance(field.default, tuple):
            on_page = tuple(on_page)
        assert on_page == field.default, (settings, key)


def test_all_presets_profiles_and_manifests_are_listed():
    meanings = {(settings.__name__, key.strip("`")): meaning for settings, key, *_, meaning in rows_of_page()}
    assert set(re.findall(r"`([\w.-]+)`", meanings["ModelSettings", "preset"])) > set(PRESETS)
    assert set(re.findall(r"`([\w.-]+)`", meanings["EvaluationSettings", "normalizer"])) == {*NEWEST, "default"}
    listed = set(re.findall(r"`([\w.-]+)`", meanings["SetSettings", "manifest"]))
    assert listed == {"dataset", *(f"{name}.jsonl" for name in ("train", "dev", *TEST_SETS))}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: "+".join(example))
def test_every_example_is_valid_and_changes_the_recipe(example):
    assert recipe_with(example) != recipe_with()


def test_every_key_is_set_by_a_recipe_or_an_example():
    recipes = [load_settings(Recipe, path) for path in RECIPES] + [recipe_with(example) for example in EXAMPLES]
    used = {key for recipe in recipes for key in keys_set_in(recipe)}
    listed = {f"{settings.__name__}.{key.strip('`')}" for settings, key, *_ in rows_of_page()}
    # A dataclass does not say which of its fields were set; the quickstart and the smoke recipe set all four fields.
    unused = {key for key in listed - used if not key.startswith("SyntheticCorpusConfig.")}
    assert unused == set()


def test_the_examples_run_at_smoke_size(tmp_path, monkeypatch):
    monkeypatch.setenv("ARKASR_CACHE", str(tmp_path / "cache"))
    runnable = [example for example in EXAMPLES if not any(word in str(example) for word in UNAVAILABLE)]
    recipe = recipe_with({"seeds": [0]}, *runnable)
    assert recipe.stages["opd"].objective.divergence == "jsd"
    assert recipe.stages["opd"].optimization.sharding == "full"
    folder = run_recipe(shrink(recipe), tmp_path / "run", resume=False, progress=Progress())
    assert (folder.path / "report.html").is_file()


def test_links_on_the_page_point_to_its_headings():
    headings = re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", PAGE)) <= anchors
