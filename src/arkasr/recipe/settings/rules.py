"""Rules about a recipe as a whole, one function per rule. Rules about one part are in its settings class.

Every rule takes a parsed recipe and raises ValueError with a message that names the key and the remedy.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Literal, NamedTuple

from arkasr.recipe.presets import parts_of_preset
from arkasr.recipe.settings.continuation import check_continuation
from arkasr.recipe.settings.stages import (
    AnyStageSettings,
    CtcStageSettings,
    LabelStageSettings,
    OpdStageSettings,
    SftStageSettings,
    TrainingStageSettings,
)
from arkasr.recipe.settings.unchecked import UncheckedRecipe
from arkasr.settings import first_repeated
from arkasr.train.parts import check_parts, trainable_parts

Target = Literal["set", "weights", "labels"]
IN_WORDS: dict[Target, str] = {
    "set": "set",
    "weights": "model or earlier training stage",
    "labels": "earlier label stage",
}


class Reference(NamedTuple):
    """A name in a stage: its key, the name, and what it may name."""

    key: str
    name: str
    targets: tuple[Target, ...]


def check_rules(recipe: UncheckedRecipe) -> None:
    """Check every rule. References are checked first, because later rules look up what they name."""
    for rule in RULES:
        rule(recipe)


def seeds_differ(recipe: UncheckedRecipe) -> None:
    """A seed names the results of a stage, so it occurs once."""
    if (repeated := first_repeated(recipe.seeds)) is not None:
        raise ValueError(f"seeds: {repeated} occurs twice; remove one")


def stages_and_models_have_different_names(recipe: UncheckedRecipe) -> None:
    """`start`, `teacher` and variants may name a model or a stage, so no name may belong to both."""
    for name in recipe.stages:
        if name in recipe.models:
            raise ValueError(f"stages.{name}: a model has the same name; rename one")


def stages_refer_to_what_is_above_them(recipe: UncheckedRecipe) -> None:
    """Stages run in the order of the file, so a stage uses earlier ones only."""
    known: dict[Target, set[str]] = {"set": set(recipe.sets), "weights": set(recipe.models), "labels": set()}
    for name, stage in recipe.stages.items():
        for key, value, targets in references_of(stage):
            if not any(value in known[target] for target in targets):
                expected = " or ".join(IN_WORDS[target] for target in targets)
                raise ValueError(
                    f"stages.{name}.{key}: there is no {expected} {value!r}; define it above this stage, "
                    "or correct the name"
                )
        known["labels" if stage.kind == "label" else "weights"].add(name)


def variants_are_models(recipe: UncheckedRecipe) -> None:
    """A variant is a model, or the weights of a training stage."""
    for variant, name in recipe.variants.items():
        if name not in recipe.models and not isinstance(recipe.stages.get(name), TrainingStageSettings):
            raise ValueError(f"variants.{variant}: there is no model or training stage {name!r}; correct the name")


def evaluation_refers_to_sets_and_variants(recipe: UncheckedRecipe) -> None:
    """Test sets and compared variants exist."""
    for name in recipe.evaluation.sets:
        if name not in recipe.sets:
            raise ValueError(f"evaluation.sets: there is no set {name!r}; define it under `sets`, or correct the name")
    for pair in recipe.evaluation.comparisons:
        for name in pair:
            if name not in recipe.variants:
                raise ValueError(
                    f"evaluation.comparisons: there is no variant {name!r}; define it under `variants`, "
                    "or correct the name"
                )


def presets_have_a_tokenizer(recipe: UncheckedRecipe) -> None:
    """A model with a random decoder needs a vocabulary, and the vocabulary needs texts."""
    if recipe.tokenizer is None:
        if any(model.preset and model.decoder is None for model in recipe.models.values()):
            raise ValueError("tokenizer: missing; a model with a `preset` needs one")
        return
    if recipe.tokenizer.texts not in recipe.sets:
        raise ValueError(
            f"tokenizer.texts: there is no set {recipe.tokenizer.texts!r}; define it under `sets`, or correct the name"
        )


def trained_decoders_keep_their_tokens(recipe: UncheckedRecipe) -> None:
    """A trained decoder knows only its own tokens."""
    if recipe.tokenizer is None:
        return
    for name, model in recipe.models.items():
        if model.decoder is not None and recipe.tokenizer.source != model.sources["decoder"]:
            raise ValueError(
                f"models.{name}.decoder: knows its own tokens only; give `tokenizer` the `pruned_from` {model.decoder} "
                "and the same revision, or remove `tokenizer` to keep all tokens"
            )


def streamed_sets_are_only_trained_on(recipe: UncheckedRecipe) -> None:
    """A streamed dataset can only be read in its own order. Only training reads data in this way."""
    uses = [
        (f"stages.{name}.{reference.key}", reference.name)
        for name, stage in recipe.stages.items()
        for reference in references_of(stage)
        if reference.key != "train"
    ]
    uses += [("evaluation.sets", name) for name in recipe.evaluation.sets]
    if recipe.tokenizer is not None:
        uses.append(("tokenizer.texts", recipe.tokenizer.texts))
    for key, name in uses:
        if name in recipe.sets and recipe.sets[name].dataset is not None:
            raise ValueError(
                f"{key}: the set {name!r} is streamed; only `train` of a stage may name such a set; "
                "use a set with `manifest`"
            )


def background_voices_are_not_streamed(recipe: UncheckedRecipe) -> None:
    """Babble needs random utterances, and a streamed dataset has only the next ones."""
    for name, stage in recipe.stages.items():
        if not isinstance(stage, TrainingStageSettings) or stage.degradation is None:
            continue
        train_set = recipe.sets.get(stage.train)
        if train_set is not None and train_set.dataset is not None and stage.degradation.needs_voices_of_training_set:
            raise ValueError(
                f"stages.{name}.degradation.noise.voices: `babble` cannot take its voices from {stage.train!r}, which "
                "is streamed; name a set with `manifest`, or remove `babble` from `kinds`"
            )


def continuations_share_a_schedule(recipe: UncheckedRecipe) -> None:
    """A stage with `continues` fits the stage that it continues."""
    for name, stage in recipe.stages.items():
        if isinstance(stage, TrainingStageSettings):
            check_continuation(recipe, name)


def data_orders_are_not_named_like_stages(recipe: UncheckedRecipe) -> None:
    """A stage without `data_order` uses its own name for its order."""
    for name, stage in recipe.stages.items():
        if not isinstance(stage, TrainingStageSettings) or stage.data_order == name:
            continue
        if stage.data_order in recipe.stages:
            raise ValueError(
                f"stages.{name}.data_order: {stage.data_order!r} is the name of a stage, and so the default order of "
                "that stage; choose a name that no stage has"
            )


def supervised_stages_have_labels(recipe: UncheckedRecipe) -> None:
    """CTC and SFT learn from labels."""
    for name, stage in recipe.stages.items():
        if not isinstance(stage, CtcStageSettings | SftStageSettings) or stage.train not in recipe.sets:
            continue
        if recipe.sets[stage.train].labels == "withheld":
            raise ValueError(
                f"stages.{name}.train: {stage.kind} learns from labels, and the set {stage.train!r} withholds them; "
                "use another set, or `labels: given`"
            )


def weighted_labels_exist(recipe: UncheckedRecipe) -> None:
    """OPD learns from labels only if it has them."""
    for name, stage in recipe.stages.items():
        if isinstance(stage, OpdStageSettings) and stage.objective.label_weight > 0 and stage.drafts is None:
            raise ValueError(
                f"stages.{name}.objective.label_weight: there are no labels without `drafts`; name a label stage, or a "
                f"set with texts, in stages.{name}.drafts"
            )


def served_teachers_can_answer(recipe: UncheckedRecipe) -> None:
    """A server hears the recording as it is, scores some of the tokens, and keeps its weights to itself."""
    for name, stage in recipe.stages.items():
        teacher = recipe.models.get(stage.teacher) if isinstance(stage, OpdStageSettings) else None
        if teacher is None or teacher.served is None:
            continue
        assert isinstance(stage, OpdStageSettings)
        refused = {
            "objective.support": stage.objective.support == "full",
            "objective.tail": stage.objective.tail == "bucket",
            "objective.upstream_scores": stage.objective.upstream_scores,
            "offload_teacher": stage.offload_teacher,
            "teacher_cache": stage.teacher_cache is not None,
            "augmentation": stage.augmentation is not None,
        }
        for key in (key for key, is_set in refused.items() if is_set):
            raise ValueError(
                f"stages.{name}.{key}: does not work with a served teacher, which hears the unchanged recording, "
                "scores only some tokens and has no weights in this process; remove the key, or remove `served` from "
                f"models.{stage.teacher}"
            )


def cached_teachers_hear_recordings_again(recipe: UncheckedRecipe) -> None:
    """Augmentation that changes every recording at random leaves nothing to find in a cache."""
    for name, stage in recipe.stages.items():
        if not isinstance(stage, OpdStageSettings) or stage.teacher_cache is None or stage.augmentation is None:
            continue
        changes = stage.augmentation.changes_of_every_clip()
        if changes:
            raise ValueError(
                f"stages.{name}.teacher_cache: augmentation.{changes[0]} changes every recording in every epoch, so "
                f"no answer is used twice; remove teacher_cache, or set {', '.join(changes)} to 0"
            )


def stages_have_one_precision(recipe: UncheckedRecipe) -> None:
    """The processes of a run are set up once, for one precision."""
    training = [stage for stage in recipe.stages.values() if isinstance(stage, TrainingStageSettings)]
    precisions = {stage.optimization.mixed_precision for stage in training}
    if len(precisions) > 1:
        raise ValueError(
            f"stages: all must have the same optimization.mixed_precision, found {', '.join(sorted(precisions))}"
        )


def parts_of_presets_exist(recipe: UncheckedRecipe) -> None:
    """Frozen parts and parts with a learning rate exist. Other models are checked when a stage has loaded one."""
    for model, settings in recipe.models.items():
        if settings.preset is not None:
            check_parts_of_stages(recipe, model, parts_of_preset(settings.preset))


RULES: tuple[Callable[[UncheckedRecipe], None], ...] = (
    seeds_differ,
    stages_and_models_have_different_names,
    stages_refer_to_what_is_above_them,
    variants_are_models,
    evaluation_refers_to_sets_and_variants,
    presets_have_a_tokenizer,
    trained_decoders_keep_their_tokens,
    streamed_sets_are_only_trained_on,
    background_voices_are_not_streamed,
    continuations_share_a_schedule,
    data_orders_are_not_named_like_stages,
    supervised_stages_have_labels,
    weighted_labels_exist,
    served_teachers_can_answer,
    cached_teachers_hear_recordings_again,
    stages_have_one_precision,
    parts_of_presets_exist,
)


def check_parts_of_stages(recipe: UncheckedRecipe, model: str, parts: Collection[str]) -> None:
    """Check `freeze` and `learning_rates` of every stage whose weights come from a model.

    Args:
        recipe: its references are correct.
        model: its name in the recipe.
        parts: names of its parts.

    Raises:
        ValueError: a stage names another part, or has nothing left to train.
    """
    for name, stage in recipe.stages.items():
        if isinstance(stage, TrainingStageSettings) and recipe.origin(name) == model:
            key, trainable = f"stages.{name}.optimization", trainable_parts(stage.kind, parts)
            check_parts(stage.optimization, parts, trainable, key)


def references_of(stage: AnyStageSettings) -> Iterator[Reference]:
    """The names of sets, models and stages in a stage."""
    yield Reference("start", stage.start, ("weights",))
    if isinstance(stage, LabelStageSettings):
        yield Reference("audio", stage.audio, ("set",))
        return
    yield Reference("train", stage.train, ("set", "labels"))
    if stage.dev is not None:
        yield Reference("dev", stage.dev, ("set",))
    for key, name in stage.background_sets.items():
        yield Reference(key, name, ("set",))
    if isinstance(stage, OpdStageSettings):
        yield Reference("teacher", stage.teacher, ("weights",))
        if stage.drafts is not None:
            yield Reference("drafts", stage.drafts, ("set", "labels"))
