from pathlib import Path

import pytest
import yaml

from arkasr.errors import InputError
from arkasr.recipe.load import load_settings
from arkasr.recipe.settings import Recipe, TrainingStageSettings
from arkasr.recipe.smoke import shrink

RECIPES = sorted(Path("recipes").glob("*.yaml"))
SMOKE = Path("recipes/smoke.yaml")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_gives_its_variants_the_same_number_of_updates(path):
    recipe = load_settings(Recipe, path)
    assert len(recipe.variants) == 6
    updates = {name: recipe.updates(stage) for name, stage in recipe.variants.items() if name.startswith("base+")}
    assert len(set(updates.values())) == 1, updates


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_no_variant_hears_a_test_set_and_opd_sees_no_label(path):
    recipe = load_settings(Recipe, path)
    tests = {recipe.sets[name].manifest for name in recipe.evaluation.sets}
    for stage in recipe.stages.values():
        if isinstance(stage, TrainingStageSettings) and stage.train in recipe.sets:
            assert recipe.sets[stage.train].manifest not in tests
            if stage.kind == "opd":
                assert recipe.sets[stage.train].labels == "withheld"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.base.optimization.stpes=3", "stages.base.optimization: unknown key 'stpes'; did you mean 'steps'?"),
        ("variantes={}", "unknown key 'variantes'; did you mean 'variants'?"),
        ("stages.base.train=M", "stages.base.train: there is no set or labels 'M' above it in this recipe"),
        ("stages.opd.teacher=nobody", "stages.opd.teacher: there is no stage 'nobody' above it in this recipe"),
        ("stages.opd.objective.support=all", "stages.opd.objective.support: Input should be 'union'"),
        (
            "stages.base.optimization.learning_rate=-1",
            "stages.base.optimization.learning_rate: Input should be greater",
        ),
        ("variants.extra=none", "variants.extra: there is no stage 'none'"),
        ("evaluation.comparisons=[[a, b]]", "evaluation.comparisons: there is no variant 'a'"),
        ("models.untrained-student.pretrained=x", "models.untrained-student: give either `preset` or `pretrained`"),
        ("corpus.synthetic.train=3", "corpus.synthetic"),
        ("stages.opd.optimization.mixed_precision=bf16", "one run has one mixed_precision, found bf16, no"),
        ("seeds=[]", "seeds: List should have at least 1 item"),
        ("nonsense", "--set nonsense: expected key.sub=value"),
        ("name.sub=1", "--set name.sub=1"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(override, message):
    with pytest.raises(InputError) as caught:
        load_settings(Recipe, SMOKE, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_reach_into_stages_and_lists():
    recipe = load_settings(Recipe, SMOKE, ["stages.base.optimization.steps=9", "seeds=[3, 4]", "seeds.0=5"])
    assert recipe.stages["base"].optimization.steps == 9
    assert recipe.stages["more-sft"].optimization.steps != 9
    assert recipe.seeds == [5, 4]


def test_a_file_that_is_not_yaml_or_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.yaml: no such file"):
        load_settings(Recipe, tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,")
    with pytest.raises(InputError, match=r"broken\.yaml: not YAML"):
        load_settings(Recipe, broken)
    broken.write_text("- a\n- b\n")
    with pytest.raises(InputError, match=r"broken\.yaml: expected `key: value`"):
        load_settings(Recipe, broken)


def test_the_resolved_recipe_reads_back_as_itself():
    recipe = load_settings(Recipe, SMOKE)
    document = yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    assert Recipe.model_validate(document) == recipe


def test_a_shrunk_recipe_keeps_stages_and_variants_and_needs_no_download():
    recipe = load_settings(Recipe, Path("recipes/ark-asr-0.6b.yaml"))
    small = shrink(recipe)
    assert list(small.stages) == list(recipe.stages)
    assert small.variants == recipe.variants
    assert all(model.pretrained is None for model in small.models.values())
    assert small.models["teacher"].preset == "qwen3-asr-tiny"
    assert small.models["student"].preset == "ark-asr-tiny"
    assert Recipe.model_validate(small.model_dump()) == small
