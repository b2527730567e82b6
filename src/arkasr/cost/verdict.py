"""One sentence on what a stage's time goes into, and what would help, if anything does."""

from arkasr.cost.estimate import Plan, StageCost
from arkasr.cost.trials import Trial, cut, fastest, on_more_devices, room, tried
from arkasr.data.batches import POOL
from arkasr.recipe.settings import LabelStageSettings, OpdStageSettings, TrainingStageSettings

NOTICED_SHARE = 0.1  # of a step, below which waiting is not worth a word


def verdict(plan: Plan, cost: StageCost) -> str:
    """What holds a stage up first: no room, no work, no features, slow links, or the largest phase; and a way out."""
    memory = plan.cluster.device.memory
    if cost.peak > memory:
        way_out = room(plan, cost) or "nothing in the recipe makes it fit: take a smaller model or larger devices"
        return (
            f"does not fit: {cost.peak / 1e9:.3g} of {memory / 1e9:.3g} GB; the largest item is "
            f"{max(cost.memory, key=cost.memory.__getitem__)}; {way_out}"
        )
    held_up, trials = _held_up(plan, cost)
    advice = fastest(trials, cost)
    return f"{held_up}; {advice}" if advice else held_up


def _held_up(plan: Plan, cost: StageCost) -> tuple[str, list[Trial]]:
    """What the time goes into, and what might shorten it."""
    stage, key = cost.stage, f"stages.{cost.stage}.optimization"
    if cost.micro_batches < cost.devices:
        idle = cost.devices - cost.micro_batches
        return (
            f"accumulation {cost.micro_batches} leaves {idle} of {cost.devices} devices without work",
            tried(plan, stage, [f"{key}.accumulation={cost.devices}"]),
        )
    if cost.idle > NOTICED_SHARE:
        return (
            f"accumulation {cost.micro_batches} is no multiple of {cost.devices} devices, which stand idle "
            f"{cost.idle:.0%} of the time",
            tried(plan, stage, [f"{key}.accumulation={cost.rounds * cost.devices}"]),
        )
    if cost.data > NOTICED_SHARE * cost.seconds:
        workers = f"{key}.data_workers={cost.workers_needed}"
        settings = plan.recipe.stages[cost.stage]
        by_itself = ", which it reads itself" if cost.kind == "label" else ""
        if isinstance(settings, TrainingStageSettings) and settings.optimization.data_workers == 0:
            by_itself = f", in the first epoch only if there are up to {POOL:,} utterances, which it then remembers"
        return (
            f"waits {cost.data / cost.seconds:.0%} of the time for features{by_itself}",
            tried(plan, stage, [workers], f"--set {workers}, a core each on every device"),
        )
    if cost.links > NOTICED_SHARE * cost.seconds:
        changes = ([f"{key}.sharding=none"], cut(plan, stage, 0.5), [f"{key}.accumulation={2 * cost.micro_batches}"])
        return (
            f"devices talk for {cost.links / cost.seconds:.0%} of the time",
            [trial for change in changes for trial in tried(plan, stage, change)],
        )
    phase = max(cost.phases, key=cost.phases.__getitem__)
    trials = _for_phase(plan, cost, phase)
    return (
        f"{phase} takes {cost.phases[phase] / cost.seconds:.0%} of the time",
        trials if fastest(trials, cost) else on_more_devices(plan, cost),
    )


def _for_phase(plan: Plan, cost: StageCost, phase: str) -> list[Trial]:
    """What in the recipe might shorten a phase of a step."""
    name, key = cost.stage, f"stages.{cost.stage}"
    stage = plan.recipe.stages[name]
    if isinstance(stage, LabelStageSettings):
        return tried(plan, name, cut(plan, name, 0.5))
    changes: list[list[str]] = []
    trials: list[Trial] = []
    if phase == "optimizer":
        changes += [
            [f"{key}.optimization.accumulation={2 * cost.micro_batches}"],
            [f"{key}.optimization.sharding=full"],
        ]
    else:
        trained = [name for name, other in plan.recipe.stages.items() if isinstance(other, TrainingStageSettings)]
        halves = [f"stages.{name}.optimization.mixed_precision=bf16" for name in trained]
        trials += tried(plan, name, halves, "mixed_precision: bf16 in every stage")
    if phase == "backward":
        changes.append([f"{key}.optimization.activation_checkpointing=false"])
    if isinstance(stage, OpdStageSettings) and phase == "rollout":
        texts = _texts_for(plan, stage) if stage.objective.rollouts.engine == "own" else []
        changes += [cut(plan, name, 0.5), *([f"{key}.drafts={name_of_texts}"] for name_of_texts in texts)]
    if isinstance(stage, OpdStageSettings) and phase == "teacher":
        urls = [f"models.{stage.teacher}.served.urls=[http://host:8000]"]
        trials += tried(plan, name, urls, "the teacher on servers of its own (docs/teachers.md)")
    return trials + [trial for change in changes for trial in tried(plan, name, change)]


def _texts_for(plan: Plan, stage: OpdStageSettings) -> list[str]:
    """Sets and label stages that have texts for what a stage hears."""
    recipe = plan.recipe
    heard = recipe.sets[stage.train].manifest if stage.train in recipe.sets else None
    sets = [
        name for name, other in recipe.sets.items() if heard and other.manifest == heard and other.labels == "given"
    ]
    labelling = [(name, other) for name, other in recipe.stages.items() if isinstance(other, LabelStageSettings)]
    return sets + [name for name, other in labelling if other.audio == stage.train]
