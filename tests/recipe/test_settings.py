from pathlib import Path

import pytest
import yaml

from arkasr.errors import InputError
from arkasr.recipe.load import load_settings
from arkasr.recipe.settings import Recipe, TrainingStageSettings
from arkasr.recipe.settings.continuation import schedule_steps, seed_of_order, steps_before
from arkasr.recipe.smoke import shrink
from arkasr.run.folder import RunFolder

RECIPES = sorted(Path("recipes").glob("*.yaml"))
SMOKE = Path("recipes/smoke.yaml")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_gives_its_variants_the_same_number_of_updates(path):
    recipe = load_settings(Recipe, path)
    updates = {name: recipe.updates(stage) for name, stage in recipe.variants.items() if "+" in name}
    assert len(updates) >= 3
    assert len(set(updates.values())) == 1, updates


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_compared_stages_share_data_order_augmentation_and_schedule(path):
    """The stages that a `+` stands for differ only in their objective. Two stages of one variant share one schedule."""
    recipe = load_settings(Recipe, path)
    variants = {name: recipe.chain(stage) for name, stage in recipe.variants.items()}
    compared = {stage for name in variants if "+" in name for stage in variants[name]}
    compared -= {stage for name in variants if "+" not in name for stage in variants[name]}
    assert len(compared) >= 4
    assert len({seed_of_order(recipe, name, 0) for name in compared}) == 1
    assert len({schedule_steps(recipe, name) for name in compared}) == 1
    assert len({str((recipe.stages[name].augmentation, recipe.stages[name].degradation)) for name in compared}) == 1
    settings = [recipe.stages[name].optimization.model_dump(exclude={"steps", "evaluate_every"}) for name in compared]
    assert all(optimization == settings[0] for optimization in settings)
    others = [name for name in recipe.stages if recipe.stages[name].kind != "label" and name not in compared]
    assert len({seed_of_order(recipe, name, 0) for name in [*others, "opd"]}) == len(others) + 1
    assert len({seed_of_order(recipe, "opd", seed) for seed in range(3)}) == 3


def test_steps_are_counted_from_the_first_stage_of_a_schedule():
    recipe = load_settings(Recipe, SMOKE)
    assert {name: steps_before(recipe, name) for name in ("base", "td", "more-td", "opd-after-td")} == {
        "base": 0,
        "td": 0,
        "more-td": 2,
        "opd-after-td": 2,
    }
    assert {name: schedule_steps(recipe, name) for name in ("td", "more-td", "opd", "base")} == dict.fromkeys(
        ("td", "more-td", "opd", "base"), 6
    )


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_no_stage_trains_on_a_test_set_and_opd_gets_no_labels(path):
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
        ("stages.base.train=M", "stages.base.train: there is no set or earlier label stage 'M'; define it above"),
        ("stages.opd.teacher=nobody", "stages.opd.teacher: there is no model or earlier training stage 'nobody'"),
        ("stages.opd.drafts=later", "stages.opd.drafts: there is no set or earlier label stage 'later'; define"),
        ("stages.opd.objective.support=all", "stages.opd.objective.support: Input should be 'union'"),
        (
            "stages.opd.objective={unpaired: segments, temperature: 2}",
            "stages.opd.objective: unpaired: `segments` compares probabilities at `temperature: 1`; set 1, or use",
        ),
        ("stages.opd.objective.rollouts.staleness=1", "stages.opd.objective.rollouts: staleness: `engine: own`"),
        (
            "stages.base.optimization.learning_rate=-1",
            "stages.base.optimization.learning_rate: Input should be greater",
        ),
        (
            "stages.base.optimization.freeze=[encodr]",
            "stages.base.optimization.freeze: the model has no part 'encodr'; did you mean 'encoder'?",
        ),
        (
            "stages.base.optimization.learning_rates={head: 1}",
            "stages.base.optimization.learning_rates: the model has no part 'head'; known are adapter, decoder, ",
        ),
        ("stages.base.optimization.learning_rates={encoder: 0}", "learning_rates.encoder: Input should be greater"),
        ("stages.base.optimization.freeze=[encoder, encoder]", "freeze: 'encoder' occurs twice; remove one"),
        (
            "stages.base.optimization={steps: 1, batch_seconds: 1, learning_rate: 1, freeze: [encoder], "
            "learning_rates: {encoder: 1}}",
            "stages.base.optimization: learning_rates.encoder: `freeze` names this part too; remove one of the two",
        ),
        (
            "stages.base.optimization.freeze=[encoder, adapter, decoder, embeddings]",
            "stages.base.optimization.freeze: nothing is left to train; remove a part, one of encoder, adapter",
        ),
        (
            "stages.more-td.optimization.freeze=[encoder]",
            "stages.more-td.optimization.freeze: differs from that of 'td', but both share one schedule",
        ),
        ("variants.extra=none", "variants.extra: there is no model or training stage 'none'"),
        ("stages.base.continues=true", "stages.base.continues: only a stage of kind sft or opd can continue"),
        ("stages.td.once=true", "stages.more-td.continues: 'td' and 'more-td' must have the same `once`"),
        (
            "stages.opd.data_order=base",
            "stages.opd.data_order: 'base' is the name of a stage, and so the default order of that stage",
        ),
        ("stages.more-td.data_order=other", "stages.more-td.data_order: the order of 'td' continues; remove the key"),
        (
            "stages.more-td.optimization.learning_rate=0.1",
            "stages.more-td.optimization.learning_rate: differs from that of 'td', but both share one schedule",
        ),
        (
            "stages.more-td.optimization.steps=5",
            "stages.more-td.continues: 'opd-after-td' continues 'td' too, and ends at step 6 instead of",
        ),
        ("evaluation.comparisons=[[a, b]]", "evaluation.comparisons: there is no variant 'a'"),
        ("models.untrained-student.pretrained=x", "models.untrained-student: give either `preset` or `pretrained`"),
        (
            "models.untrained-teacher.served={urls: ['http://a:1']}",
            "models.untrained-teacher: served: needs the model's folder or hub name as `pretrained`",
        ),
        (
            "models.t={pretrained: x, served: {urls: ['a:1']}}",
            "models.t.served.urls: 'a:1' is not the address of a server; give one like http://host:8000",
        ),
        ("models.t={pretrained: x, served: {urls: []}}", "models.t.served.urls: List should have at least 1 item"),
        ("models.t={pretrained: x, served: {url: y}}", "models.t.served: unknown key 'url'; did you mean 'urls'?"),
        ("corpus.synthetic.train=3", "corpus.synthetic"),
        ("stages.opd.optimization.mixed_precision=bf16", "all must have the same optimization.mixed_precision, found"),
        (
            "models.untrained-student.sizes={hiden_size: 12}",
            "sizes: unknown key 'hiden_size'; did you mean 'hidden_size'?",
        ),
        (
            "models.untrained-student.sizes={whisper_config: {d_mode: 8}}",
            "sizes.whisper_config: unknown key 'd_mode'; did",
        ),
        ("models.untrained-teacher.sizes={text_config: {layers: 8}}", "sizes.text_config: unknown key 'layers'"),
        ("models.untrained-student.preset=ark-asr-tini", "there is no 'ark-asr-tini'; did you mean 'ark-asr-tiny'?"),
        (
            "models.untrained-teacher.encoder=x",
            "models.untrained-teacher: encoder: needs `preset`, one of ark-asr-tiny,",
        ),
        (
            "models.untrained-student.encoder_revision=main",
            "models.untrained-student: encoder_revision: needs `encoder`; add it, or remove the key",
        ),
        (
            "models.untrained-student.decoder=x",
            "models.untrained-student.decoder: knows its own tokens only; give `tokenizer` the `pruned_from` x and the",
        ),
        (
            "stages.opd={kind: opd, start: base, teacher: teacher, train: P, objective: {label_weight: 1}, "
            "optimization: {steps: 1, batch_seconds: 9, learning_rate: 1.0e-3}}",
            "stages.opd.objective.label_weight: there are no labels without `drafts`; name a label stage, or a",
        ),
        ("stages.base.train=P", "stages.base.train: sft learns from labels, and the set 'P' withholds them"),
        ("sets.L.dataset={path: x}", "sets.L: give either `manifest` or `dataset`"),
        ("sets.L={dataset: {path: x}, first: 3}", "sets.L: first: does not work with a streamed `dataset`"),
        (
            "sets.dev={dataset: {path: x}}",
            "stages.base.dev: the set 'dev' is streamed; only `train` of a stage may",
        ),
        (
            "sets.P={dataset: {path: x}}",
            "stages.labels.audio: the set 'P' is streamed; only `train` of a stage may",
        ),
        ("sets.zh-net={dataset: {path: x}}", "evaluation.sets: the set 'zh-net' is streamed"),
        (
            "stages.opd.degradation={}",
            "stages.opd.degradation: names no effect; give one of speed, reverberation, noise",
        ),
        ("stages.opd.degradation={nose: {}}", "stages.opd.degradation: unknown key 'nose'; did you mean 'noise'?"),
        ("stages.opd.degradation.level={}", "stages.opd.degradation.level.probability: Field required"),
        (
            "stages.opd.degradation.noise={probability: 0.5, snr_db: [20, 0]}",
            "stages.opd.degradation.noise.snr_db: [20, 0]: give the lower limit first",
        ),
        (
            "stages.opd.degradation.noise={probability: 1, kinds: [babble, babble]}",
            "stages.opd.degradation.noise: kinds: 'babble' occurs twice; remove one",
        ),
        (
            "stages.opd.degradation.codec={probability: 1, kinds: [mp3, mp3]}",
            "stages.opd.degradation.codec: kinds: 'mp3' occurs twice; remove one",
        ),
        (
            "stages.opd.degradation.noise={probability: 1, kinds: [recorded]}",
            "stages.opd.degradation.noise: recordings: `recorded` noise needs a set of noise recordings; name it",
        ),
        (
            "stages.opd.degradation.noise={probability: 1, recordings: L}",
            "stages.opd.degradation.noise: recordings: is not used; add `recorded` to `kinds`, or remove the key",
        ),
        (
            "stages.opd.degradation.noise={probability: 1, kinds: [white], voices: L}",
            "stages.opd.degradation.noise: voices: is not used; add `babble` to `kinds`, or remove the key",
        ),
        (
            "stages.opd.degradation.noise={probability: 1, voices: M}",
            "stages.opd.degradation.noise.voices: there is no set 'M'; define it above this stage",
        ),
        (
            "stages.opd-after-td.degradation.speed={probability: 0.1}",
            "stages.opd-after-td.degradation.speed: its lowest `factor` changes the batches, and the batches of 'td' "
            "continue; give both the same lowest `factor`, or remove `continues`",
        ),
        ("sets.L={dataset: {path: x}}", "tokenizer.texts: the set 'L' is streamed"),
        ("models.base={pretrained: x}", "stages.base: a model has the same name; rename one"),
        ("tokenizer=null", "tokenizer: missing; a model with a `preset` needs one"),
        ("tokenizer.vocab_size=null", "tokenizer: give `vocab_size` to train a vocabulary, or `pruned_from` to prune"),
        ("tokenizer.revision=main", "tokenizer: revision: needs `pruned_from`; add it, or remove the key"),
        ("tokenizer.texts=M", "tokenizer.texts: there is no set 'M'; define it under `sets`"),
        ("evaluation.sets=[nowhere]", "evaluation.sets: there is no set 'nowhere'; define it under `sets`"),
        ("seeds=[1, 1]", "seeds: 1 occurs twice"),
        ("evaluation.sets=[en-clean, en-clean]", "evaluation: sets: 'en-clean' occurs twice"),
        ("evaluation.normalizer={default: basic, Chinees: zh}", "did you mean 'Chinese'?"),
        ("evaluation.normalizer={default: basick}", "did you mean 'basic'?"),
        ("seeds.9=1", "--set seeds.9=1: '9' is not an index of a list of 1, counted from 0"),
        ("seeds.x=1", "--set seeds.x=1: 'x' is not an index of a list"),
        ("name=[", "--set name=[: the value is not YAML"),
        ("description=a: b: c", "--set description=a: b: c: the value is not YAML; put it in quotes"),
        ("seeds=[]", "seeds: List should have at least 1 item"),
        ("nonsense", "--set nonsense: expected key.sub=value"),
        ("name.sub=1", "--set name.sub=1"),
    ],
)
def test_a_mistake_gives_one_line_that_names_the_key(override, message):
    with pytest.raises(InputError) as refused:
        load_settings(Recipe, SMOKE, [override])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("objective.support", "full"),
        ("objective.tail", "bucket"),
        ("objective.upstream_scores", "true"),
        ("offload_teacher", "true"),
        ("teacher_cache", "audio"),
        ("augmentation", "{time_stretch: 0.1}"),
    ],
)
def test_settings_that_a_served_teacher_does_not_support_are_refused(key, value):
    served = ["models.away={pretrained: x, served: {urls: ['http://a:1']}}", "stages.opd-after-td.teacher=away"]
    load_settings(Recipe, SMOKE, served)
    with pytest.raises(InputError, match=rf"stages.opd-after-td.{key}: does not work .*remove `served` from models"):
        load_settings(Recipe, SMOKE, [*served, f"stages.opd-after-td.{key}={value}"])


def test_a_cache_is_refused_if_augmentation_changes_every_recording():
    cached = ["stages.opd.teacher_cache=audio", "stages.opd.data_order=null"]
    message = r"stages.opd.teacher_cache: augmentation.time_masks changes .* or set time_masks, frequency_masks to 0"
    with pytest.raises(InputError, match=message):
        load_settings(Recipe, SMOKE, [*cached, "stages.opd.augmentation={}"])
    joined = "{join_share: 0.5, time_masks: 0, frequency_masks: 0}"  # the other half of the recordings stays as it is
    load_settings(Recipe, SMOKE, [*cached, f"stages.opd.augmentation={joined}"])


def test_a_streamed_set_can_be_continued_only_after_a_stage_on_the_same_set():
    streamed = ["sets.D={dataset: {path: x}}", "stages.opd-after-td.train=D"]
    with pytest.raises(InputError, match=r"stages.opd-after-td.train: 'D' is streamed, and 'td' does not train on it"):
        load_settings(Recipe, SMOKE, streamed)
    load_settings(Recipe, SMOKE, [*streamed, "stages.opd-after-td.continues=false"])


def test_degradation_works_with_a_served_teacher_and_in_a_continued_stage():
    served = ["models.away={pretrained: x, served: {urls: ['http://a:1']}}", "stages.opd-after-td.teacher=away"]
    noise = "stages.opd-after-td.degradation.noise={probability: 0.5}"
    recipe = load_settings(Recipe, SMOKE, [*served, noise])
    assert recipe.stages["opd-after-td"].continues
    speed = [f"stages.{name}.degradation.speed={{probability: 0.1}}" for name in ("td", "opd-after-td", "more-td")]
    load_settings(Recipe, SMOKE, speed)


def test_babble_of_a_streamed_set_needs_voices_of_another_set():
    streamed = ["sets.D={dataset: {path: x}}", "stages.opd.train=D", "stages.opd.degradation.noise={probability: 1}"]
    with pytest.raises(InputError, match=r"stages.opd.degradation.noise.voices: `babble` cannot take its voices from"):
        load_settings(Recipe, SMOKE, streamed)
    load_settings(Recipe, SMOKE, [*streamed, "stages.opd.degradation.noise.voices=L"])
    load_settings(Recipe, SMOKE, [*streamed, "stages.opd.degradation.noise.kinds=[pink]"])
    with pytest.raises(InputError, match=r"stages.opd.degradation.noise.voices: the set 'D' is streamed; only `train`"):
        load_settings(Recipe, SMOKE, [*streamed, "stages.opd.degradation.noise.voices=D"])


def test_a_normaliser_may_be_set_for_a_language_code():
    recipe = load_settings(Recipe, SMOKE, ["evaluation.normalizer={default: basic, zh: zh}"])
    assert recipe.evaluation.normalizer == {"default": "basic", "Chinese": "zh"}


def test_any_field_of_a_preset_and_of_its_nested_configs_may_be_changed():
    sizes = "{rope_theta: 1.0e4, attention_dropout: 0.1, whisper_config: {dropout: 0.1, d_model: 64}}"
    recipe = load_settings(Recipe, SMOKE, [f"models.untrained-student.sizes={sizes}"])
    assert recipe.models["untrained-student"].sizes["whisper_config"]["d_model"] == 64


def test_fp16_is_refused_with_two_optimizers():
    with pytest.raises(InputError, match="fp16 scales gradients for one only"):
        load_settings(Recipe, SMOKE, ["stages.base.optimization.mixed_precision=fp16"])


def test_overrides_change_keys_of_stages_and_items_of_lists():
    recipe = load_settings(Recipe, SMOKE, ["stages.base.optimization.steps=9", "seeds=[3, 4]", "seeds.0=5"])
    assert recipe.stages["base"].optimization.steps == 9
    assert recipe.stages["more-sft"].optimization.steps != 9
    assert recipe.seeds == [5, 4]


def test_a_missing_or_invalid_recipe_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.yaml: no such file"):
        load_settings(Recipe, tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,")
    with pytest.raises(InputError, match=r"broken\.yaml: not YAML"):
        load_settings(Recipe, broken)
    broken.write_text("- a\n- b\n")
    with pytest.raises(InputError, match=r"broken\.yaml: expected `key: value`"):
        load_settings(Recipe, broken)


def test_a_written_recipe_reads_back_equal():
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


def test_a_run_older_than_loop_masking_continues_only_without_it(tmp_path):
    recipe = load_settings(Recipe, SMOKE)
    RunFolder.create(tmp_path, recipe, resume=False)
    stored = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    for stage in ("opd", "opd-after-td"):
        del stored["stages"][stage]["objective"]["looping"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(stored, sort_keys=False))
    with pytest.raises(InputError, match=r"stages\.opd\.objective\.looping differs from the recipe given"):
        RunFolder.create(tmp_path, recipe, resume=True)
    keep = [f"stages.{stage}.objective.looping=keep" for stage in ("opd", "opd-after-td")]
    RunFolder.create(tmp_path, load_settings(Recipe, SMOKE, keep), resume=True)


def test_the_comparisons_of_a_finished_run_may_change_and_are_stored(tmp_path):
    RunFolder.create(tmp_path, load_settings(Recipe, SMOKE), resume=False)
    by_speaker = load_settings(Recipe, SMOKE, ["evaluation.resample=speaker", "evaluation.comparisons=[]"])
    RunFolder.create(tmp_path, by_speaker, resume=True)
    stored = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert Recipe.model_validate(stored) == by_speaker
    with pytest.raises(InputError, match=r"evaluation\.max_new_tokens differs from the recipe given"):
        RunFolder.create(tmp_path, load_settings(Recipe, SMOKE, ["evaluation.max_new_tokens=9"]), resume=True)


def test_a_resumed_run_may_change_the_teachers_address_but_not_its_scores(tmp_path):
    def recipe(**served):
        served = {"urls": ["http://one:8000"]} | served
        return load_settings(Recipe, SMOKE, ["models.served-teacher=" + str({"pretrained": "x", "served": served})])

    RunFolder.create(tmp_path, recipe(), resume=False)
    RunFolder.create(tmp_path, recipe(urls=["http://two:8000"], patience_seconds=5), resume=True)
    with pytest.raises(InputError, match=r"models.served-teacher.served.scores .*differs"):
        RunFolder.create(tmp_path, recipe(scores="best"), resume=True)
