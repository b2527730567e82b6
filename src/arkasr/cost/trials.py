"""What a stage would cost if recipe or cluster were otherwise: nothing is advised that has not been tried here.

What a recipe does already, what it may not do and what does not fit comes to nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from math import isclose

from arkasr.cost.estimate import Cluster, Plan, StageCost
from arkasr.errors import InputError
from arkasr.recipe.settings import LabelStageSettings

WORTH = 1.05  # times as fast, below which a change is not worth a word
PIECES = (1, 2, 4, 8, 16, 32, 64)  # that a micro-batch may be cut into to make it fit
LONGEST_UTTERANCE = 30.0  # seconds, which a micro-batch must hold


@dataclass(frozen=True)
class Trial:
    """A stage with something changed.

    Attributes:
        said: what is changed, as an advice begins.
        cost: with it.
    """

    said: str
    cost: StageCost


def tried(plan: Plan, stage: str, overrides: Sequence[str], said: str | None = None) -> list[Trial]:
    """A stage with other values, given as behind `--set`; an empty list where that comes to nothing."""
    try:
        changed = plan.with_set(overrides)
        cost = changed.cost(stage)
    except InputError:  # the recipe may not have them, or the device has no figure for another precision
        return []
    if changed.recipe == plan.recipe or cost.peak > plan.cluster.device.memory:
        return []
    return [Trial(said or " ".join(f"--set {override}" for override in overrides), cost)]


def on_more_devices(plan: Plan, cost: StageCost) -> list[Trial]:
    """Twice the devices, with work for all of them."""
    devices = 2 * cost.devices
    larger = replace(plan, cluster=Cluster(plan.cluster.device, devices))
    if cost.kind == "label" or cost.micro_batches >= devices:
        trial = Trial(f"{devices} devices", larger.cost(cost.stage))
        return [trial] if trial.cost.peak <= plan.cluster.device.memory else []
    trials = tried(larger, cost.stage, [f"stages.{cost.stage}.optimization.accumulation={devices}"])
    return [replace(trial, said=f"{devices} devices and {trial.said}") for trial in trials]


def cut(plan: Plan, stage: str, pieces: float) -> list[str]:
    """Overrides that cut micro-batches into so many (below 1: put together), and have as many more of them in a step.

    None where that would cut through utterances.
    """
    settings, key = plan.recipe.stages[stage], f"stages.{stage}"
    if isinstance(settings, LabelStageSettings):
        seconds, others = settings.batch_seconds / pieces, []
    else:
        key += ".optimization"
        seconds = settings.optimization.batch_seconds / pieces
        others = [f"{key}.accumulation={max(round(settings.optimization.accumulation * pieces), 1)}"]
    as_it_is = pieces == 1 or (pieces > 1 and seconds < LONGEST_UTTERANCE)
    return [] if as_it_is else [f"{key}.batch_seconds={seconds:g}", *others]


def room(plan: Plan, cost: StageCost) -> str | None:
    """The fewest changes that make a stage fit and leave what a step hears as it is, the fastest of as many."""
    key = f"stages.{cost.stage}"
    savings = (
        f"{key}.optimization.activation_checkpointing=true",
        f"{key}.optimization.sharding=full",
        f"{key}.offload_teacher=true",
    )
    choices = chain.from_iterable(combinations(savings, count) for count in range(len(savings) + 1))
    all_overrides = [[*some, *cut(plan, cost.stage, pieces)] for some in choices for pieces in PIECES]
    fitting = [(len(some), trial) for some in all_overrides for trial in tried(plan, cost.stage, some)]
    if not fitting:
        return None
    _, found = min(fitting, key=lambda pair: (pair[0], -pair[1].cost.speed))
    return f"{found.said}: {found.cost.peak / 1e9:.3g} GB, {_times(cost.speed / found.cost.speed)} as long"


def fastest(trials: Iterable[Trial], cost: StageCost) -> str | None:
    """The trial that brings most, and how much; None where none is worth a word."""
    best = max(trials, key=lambda trial: trial.cost.speed, default=None)
    if best is None or best.cost.speed < WORTH * cost.speed:
        return None
    audio = best.cost.audio / cost.audio
    more = "" if cost.kind == "label" or isclose(audio, 1) else f", with {_times(audio)} as much audio a step"
    return f"{best.said}: {_times(best.cost.speed / cost.speed)} as fast{more}"


def _times(ratio: float) -> str:
    return f"{ratio:,.0f} times" if ratio >= 10 else f"{ratio:.2g} times"
