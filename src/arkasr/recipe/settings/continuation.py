"""Which stages share an order of the data, and which are parts of one schedule.

Comes in: a parsed recipe. Goes out: seeds and step counts of a stage. How a stage is resumed is left to `train`.
"""

import hashlib

from arkasr.recipe.settings.stages import TrainingStageSettings
from arkasr.recipe.settings.unchecked import UncheckedRecipe

# `optimization` keys in which the parts of one schedule may differ.
FREE_IN_A_PART = {
    "steps", "evaluate_every", "checkpoint_every", "keep_checkpoints", "data_workers", "activation_checkpointing",
    "sharding", "max_skipped_steps", "max_quarantined_share",
}  # fmt: skip


def seed_of_order(recipe: UncheckedRecipe, name: str, seed: int) -> int:
    """The seed of a stage's shuffle and augmentation, 48 bits.

    It depends on the run's seed and on the stage's `data_order`, by default its name. So two stages see different
    orders unless the recipe asks for the same one.
    """
    first = _schedule(recipe, name)[0]
    order = _training(recipe, first).data_order or first
    return int.from_bytes(hashlib.sha256(f"{seed}:{order}".encode()).digest()[:6], "big")


def steps_before(recipe: UncheckedRecipe, name: str) -> int:
    """Optimizer steps of the schedule before a stage begins."""
    return sum(_steps(recipe, part) for part in _schedule(recipe, name)[:-1])


def schedule_steps(recipe: UncheckedRecipe, name: str) -> int:
    """Optimizer steps of the schedule that a stage is part of, from its first stage to its last."""
    continuations = [other for other in recipe.stages if _continued(recipe, other) == name]
    if continuations:
        return schedule_steps(recipe, continuations[0])
    return steps_before(recipe, name) + _steps(recipe, name)


def check_continuation(recipe: UncheckedRecipe, name: str) -> None:
    """Check that a stage with `continues` can share a schedule with the stage that it starts from.

    Raises:
        ValueError: it cannot; names the key.
    """
    stage = _training(recipe, name)
    if not stage.continues:
        return
    key, previous = f"stages.{name}.continues", recipe.stages.get(stage.start)
    if recipe.stages[name].kind == "ctc" or previous is None or previous.kind not in ("sft", "opd"):
        raise ValueError(f"{key}: only a stage of kind sft or opd can continue, and only one of kind sft or opd")
    if stage.once != previous.once:
        raise ValueError(f"{key}: {stage.start!r} and {name!r} must have the same `once`, since each seed has an order")
    train_set = recipe.sets.get(stage.train)
    if train_set is not None and train_set.dataset is not None and stage.train != previous.train:
        raise ValueError(
            f"stages.{name}.train: {stage.train!r} is streamed, and {stage.start!r} does not train on it; "
            f"train both on it, use a set with `manifest`, or remove `continues`"
        )
    if stage.data_order is not None:
        raise ValueError(f"stages.{name}.data_order: the order of {stage.start!r} continues; remove the key")
    for setting, value in stage.optimization:
        if setting not in FREE_IN_A_PART and value != getattr(previous.optimization, setting):
            raise ValueError(
                f"stages.{name}.optimization.{setting}: differs from that of {stage.start!r}, but both share one "
                "schedule; give both the same value, or remove `continues`"
            )
    if stage.lengthening != _training(recipe, stage.start).lengthening:
        raise ValueError(
            f"stages.{name}.degradation.speed: its lowest `factor` changes the batches, and the batches of "
            f"{stage.start!r} continue; give both the same lowest `factor`, or remove `continues`"
        )
    _check_common_end(recipe, name)


def _check_common_end(recipe: UncheckedRecipe, name: str) -> None:
    """All stages that continue the same stage must end at the same step: its rates depend on that step."""
    start, end = recipe.stages[name].start, schedule_steps(recipe, name)
    for other in recipe.stages:
        if _continued(recipe, other) == start and schedule_steps(recipe, other) != end:
            raise ValueError(
                f"stages.{name}.continues: {other!r} continues {start!r} too, and ends at step "
                f"{schedule_steps(recipe, other)} instead of {end}; one schedule has one end, so give both the same "
                "number of steps"
            )


def _schedule(recipe: UncheckedRecipe, name: str) -> list[str]:
    """The stages of a schedule up to `name`, first to last."""
    stages = [name]
    while (previous := _continued(recipe, stages[0])) is not None:
        stages.insert(0, previous)
    return stages


def _continued(recipe: UncheckedRecipe, name: str) -> str | None:
    """The stage that a stage continues."""
    stage = recipe.stages[name]
    return stage.start if getattr(stage, "continues", False) else None


def _steps(recipe: UncheckedRecipe, name: str) -> int:
    return _training(recipe, name).optimization.steps


def _training(recipe: UncheckedRecipe, name: str) -> TrainingStageSettings:
    stage = recipe.stages[name]
    assert stage.kind != "label"
    return stage
