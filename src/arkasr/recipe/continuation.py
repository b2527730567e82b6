"""Which stages of a recipe hear the same order, and which are parts of one schedule."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from arkasr.recipe.settings import Recipe, TrainingStageSettings

# What may differ between the parts of one schedule.
OF_A_PART = {
    "steps", "evaluate_every", "checkpoint_every", "keep_checkpoints", "data_workers", "activation_checkpointing",
    "sharding", "max_skipped_steps", "max_quarantined_share",
}  # fmt: skip


def seed_of_order(recipe: "Recipe", name: str, seed: int) -> int:
    """The seed of a stage's shuffle and augmentation under a seed of the run, 48 bits.

    It is a function of the run's seed and of the name that the stage gives its order, so that stages differ in what
    they hear unless the recipe says that they do not.
    """
    first = _schedule(recipe, name)[0]
    order = _training(recipe, first).data_order or first
    return int.from_bytes(hashlib.sha256(f"{seed}:{order}".encode()).digest()[:6], "big")


def steps_before(recipe: "Recipe", name: str) -> int:
    """Optimizer steps that the stages have taken which a stage continues."""
    return sum(_steps(recipe, part) for part in _schedule(recipe, name)[:-1])


def schedule_steps(recipe: "Recipe", name: str) -> int:
    """Optimizer steps of the schedule that a stage is part of, from its first stage to its last."""
    behind = [other for other in recipe.stages if _continued(recipe, other) == name]
    if behind:
        return schedule_steps(recipe, behind[0])
    return steps_before(recipe, name) + _steps(recipe, name)


def check_continuation(recipe: "Recipe", name: str) -> None:
    """See that a stage which continues another one can be part of the same schedule.

    Raises:
        ValueError: it cannot; names the key.
    """
    stage = _training(recipe, name)
    if not stage.continues:
        return
    place, ended = f"stages.{name}.continues", recipe.stages.get(stage.start)
    if recipe.stages[name].kind == "ctc" or ended is None or ended.kind not in ("sft", "opd"):
        raise ValueError(f"{place}: only a stage of kind sft or opd goes on, and where one of them has ended")
    if stage.once != ended.once:
        raise ValueError(
            f"{place}: {stage.start!r} and {name!r} must both have `once`, or neither: a seed has one order"
        )
    heard = recipe.sets.get(stage.train)
    if heard is not None and heard.dataset is not None and stage.train != ended.train:
        raise ValueError(
            f"stages.{name}.train: {stage.train!r} is streamed, and what goes on with it must have begun with it; "
            f"train {stage.start!r} on it, take a manifest, or leave out `continues`"
        )
    if stage.data_order is not None:
        raise ValueError(f"stages.{name}.data_order: the order of {stage.start!r} goes on; leave it out")
    for key, value in stage.optimization:
        if key not in OF_A_PART and value != getattr(ended.optimization, key):
            raise ValueError(
                f"stages.{name}.optimization.{key}: {stage.start!r} and {name!r} share one schedule, and it differs; "
                "give both the same value, or leave out `continues`"
            )
    ends = {other: schedule_steps(recipe, other) for other in recipe.stages if _continued(recipe, other) == stage.start}
    for other, steps in ends.items():
        if steps != ends[name]:
            raise ValueError(
                f"{place}: {other!r} continues {stage.start!r}, too, and ends at step {steps} where this ends at step "
                f"{ends[name]}; one schedule has one end, give both the same number of steps"
            )


def _schedule(recipe: "Recipe", name: str) -> list[str]:
    """The stages of a schedule up to `name`, first to last."""
    stages = [name]
    while (ended := _continued(recipe, stages[0])) is not None:
        stages.insert(0, ended)
    return stages


def _continued(recipe: "Recipe", name: str) -> str | None:
    stage = recipe.stages[name]
    return stage.start if getattr(stage, "continues", False) else None


def _steps(recipe: "Recipe", name: str) -> int:
    return _training(recipe, name).optimization.steps


def _training(recipe: "Recipe", name: str) -> "TrainingStageSettings":
    stage = recipe.stages[name]
    assert stage.kind != "label"
    return stage
