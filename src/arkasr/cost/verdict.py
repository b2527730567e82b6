"""One sentence on what holds a stage up, and what would help: every advice has been tried on the estimate itself.

What a recipe does already, what it may not do, what does not fit and what makes no difference is not advised.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from math import isclose

from arkasr.cost.estimate import Cluster, Plan, StageCost
from arkasr.errors import InputError
from arkasr.recipe.settings import LabelStageSettings, OpdStageSettings, TrainingStageSettings

NOTICED_SHARE = 0.1  # of a step, below which waiting is not worth a word
WORTH = 1.05  # times as fast, below which a change is not worth a word
PIECES = (1, 2, 4, 8, 16, 32, 64)  # that a micro-batch may be cut into to make it fit
LONGEST_UTTERANCE = 30.0  # seconds, which a micro-batch must hold


@dataclass(frozen=True)
class Trial:
    """Something that could be otherwise.

    Attributes:
        said: what it is, as an advice begins.
        plan: with it.
    """

    said: str
    plan: Plan


def verdict(plan: Plan, cost: StageCost) -> str:
    """What holds a stage up first: no room, no work, no features, slow links, or the largest phase; and a way out."""
    memory = plan.cluster.device.memory
    if cost.peak > memory:
        return (
            f"does not fit: {cost.peak / 1e9:.0f} of {memory / 1e9:.0f} GB; the largest item is "
            f"{max(cost.memory, key=cost.memory.__getitem__)}; {_room(plan, cost)}"
        )
    held_up, *ways_out = _held_up(plan, cost)
    advice = next(filter(None, (_best(plan, cost, trials) for trials in ways_out)), None)
    return f"{held_up}; {advice}" if advice else held_up


def _held_up(plan: Plan, cost: StageCost) -> tuple[str, Iterator[Trial]] | tuple[str, Iterator[Trial], Iterator[Trial]]:
    """What the time goes into, what might shorten it, and what is tried where none of that does."""
    key, label = f"stages.{cost.stage}.optimization", cost.kind == "label"
    if cost.micro_batches < cost.devices:
        idle = cost.devices - cost.micro_batches
        return (
            f"accumulation {cost.micro_batches} leaves {idle} of {cost.devices} devices without work",
            _set(plan, [f"{key}.accumulation={cost.devices}"]),
        )
    if cost.idle > NOTICED_SHARE:
        return (
            f"accumulation {cost.micro_batches} is no multiple of {cost.devices} devices, which stand idle "
            f"{cost.idle:.0%} of the time",
            _set(plan, [f"{key}.accumulation={cost.rounds * cost.devices}"]),
        )
    if cost.data > NOTICED_SHARE * cost.seconds:
        return (
            f"waits {cost.data / cost.seconds:.0%} of the time for features" + ", which it reads itself" * label,
            _set(plan, [f"{key}.data_workers={cost.workers_needed}"]),
        )
    if cost.links > NOTICED_SHARE * cost.seconds:
        more = [f"{key}.accumulation={2 * cost.micro_batches}"]
        return (
            f"devices talk for {cost.links / cost.seconds:.0%} of the time",
            chain(_set(plan, [f"{key}.sharding=none"]), _set(plan, _cut(plan, cost, 0.5)), _set(plan, more)),
        )
    phase = max(cost.phases, key=cost.phases.__getitem__)
    return (
        f"{phase} takes {cost.phases[phase] / cost.seconds:.0%} of the time",
        _for_phase(plan, cost, phase),
        _more_devices(plan, cost),
    )


def _for_phase(plan: Plan, cost: StageCost, phase: str) -> Iterator[Trial]:
    key = f"stages.{cost.stage}"
    stage = plan.recipe.stages[cost.stage]
    if isinstance(stage, LabelStageSettings):
        yield from _set(plan, _cut(plan, cost, 0.5))
        return
    if phase == "optimizer":
        yield from _set(plan, [f"{key}.optimization.accumulation={2 * cost.micro_batches}"])
        yield from _set(plan, [f"{key}.optimization.sharding=full"])
        return
    trained = [name for name, other in plan.recipe.stages.items() if isinstance(other, TrainingStageSettings)]
    halves = [f"stages.{name}.optimization.mixed_precision=bf16" for name in trained]
    yield from _set(plan, halves, "mixed_precision: bf16 in every stage")
    if phase == "backward":
        yield from _set(plan, [f"{key}.optimization.activation_checkpointing=false"])
    if phase == "rollout":
        yield from _set(plan, _cut(plan, cost, 0.5))
        yield from (trial for name in _texts_for(plan, cost) for trial in _set(plan, [f"{key}.drafts={name}"]))
    if phase == "teacher":
        assert isinstance(stage, OpdStageSettings)
        urls = [f"models.{stage.teacher}.served.urls=[http://host:8000]"]
        yield from _set(plan, urls, "the teacher on servers of its own (docs/teachers.md)")


def _texts_for(plan: Plan, cost: StageCost) -> list[str]:
    """Sets and label stages that have texts for what a stage hears."""
    recipe, stage = plan.recipe, plan.recipe.stages[cost.stage]
    assert isinstance(stage, OpdStageSettings)
    heard = recipe.sets.get(stage.train)
    sets = [
        name
        for name, other in recipe.sets.items()
        if heard is not None and other.labels == "given" and (other.manifest, other.dataset) == (heard.manifest, None)
    ]
    return sets + [
        name
        for name, other in recipe.stages.items()
        if isinstance(other, LabelStageSettings) and other.audio == stage.train
    ]


def _more_devices(plan: Plan, cost: StageCost) -> Iterator[Trial]:
    """Twice the devices, with work for all of them."""
    devices = 2 * cost.devices
    larger = replace(plan, cluster=Cluster(plan.cluster.device, devices))
    if cost.kind == "label" or cost.micro_batches >= devices:
        yield Trial(f"{devices} devices", larger)
        return
    for trial in _set(larger, [f"stages.{cost.stage}.optimization.accumulation={devices}"]):
        yield Trial(f"{devices} devices and {trial.said}", trial.plan)


def _room(plan: Plan, cost: StageCost) -> str:
    """The fewest changes that make a stage fit and leave what a step hears as it is; of as many the fastest."""
    key = f"stages.{cost.stage}"
    savings = (
        f"{key}.optimization.activation_checkpointing=true",
        f"{key}.optimization.sharding=full",
        f"{key}.offload_teacher=true",
    )
    fitting = []
    for some in chain.from_iterable(combinations(savings, count) for count in range(len(savings) + 1)):
        for pieces in PIECES:
            overrides = [*some, *_cut(plan, cost, pieces)]
            for trial in _set(plan, overrides):
                found = _priced(trial, cost)
                if found is not None and found.peak <= plan.cluster.device.memory:
                    fitting.append((len(overrides), -found.speed, trial.said, found))
    if not fitting:
        return "nothing in the recipe makes it fit; take a smaller model, or devices with more memory"
    *_, said, found = min(fitting, key=lambda entry: entry[:2])
    return f"{said}: {found.peak / 1e9:.0f} GB, {cost.speed / found.speed:.2g} times as long"


def _cut(plan: Plan, cost: StageCost, pieces: float) -> list[str]:
    """Micro-batches cut into so many (below 1: put together), and as many more of them in a step."""
    stage, key = plan.recipe.stages[cost.stage], f"stages.{cost.stage}"
    if isinstance(stage, LabelStageSettings):
        seconds, others = stage.batch_seconds / pieces, []
    else:
        key += ".optimization"
        seconds = stage.optimization.batch_seconds / pieces
        others = [f"{key}.accumulation={max(round(stage.optimization.accumulation * pieces), 1)}"]
    return [] if pieces == 1 or seconds < LONGEST_UTTERANCE else [f"{key}.batch_seconds={seconds:g}", *others]


def _set(plan: Plan, overrides: Sequence[str], said: str | None = None) -> Iterator[Trial]:
    """A trial of other values, unless the recipe has them already or may not have them."""
    try:
        changed = plan.with_set(overrides)
    except InputError:
        return
    if changed != plan:
        yield Trial(said or " ".join(f"--set {override}" for override in overrides), changed)


def _best(plan: Plan, cost: StageCost, trials: Iterable[Trial]) -> str | None:
    """The trial that is fastest, and how much it brings; None where none is worth a word."""
    found = [(trial, priced) for trial in trials if (priced := _priced(trial, cost)) is not None]
    memory = plan.cluster.device.memory
    helpful = [pair for pair in found if pair[1].peak <= memory and pair[1].speed > WORTH * cost.speed]
    if not helpful:
        return None
    trial, best = max(helpful, key=lambda pair: pair[1].speed)
    audio = best.audio / cost.audio
    more = "" if cost.kind == "label" or isclose(audio, 1) else f", with {audio:.3g} times as much audio a step"
    return f"{trial.said}: {best.speed / cost.speed:.2g} times as fast{more}"


def _priced(trial: Trial, cost: StageCost) -> StageCost | None:
    try:
        return trial.plan.cost(cost.stage)
    except InputError:  # the device has no figure for another precision
        return None
