"""What a plan shows: time, speed and memory of every stage, whether it fits, and what all this rests on."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table

from arkasr.cost.assumptions import LONGEST_TRANSCRIPT, Assumptions
from arkasr.cost.device import Device
from arkasr.cost.estimate import Cluster, StageCost, is_served
from arkasr.recipe.settings import LabelStageSettings, OpdStageSettings, Recipe

# Columns of what is shown: a table narrower than that would break its numbers.
WIDTH = 116
PHASES = ("encode", "rollout", "teacher", "student", "backward", "optimizer")
ITEMS = ("weights", "gradients", "moments", "in use", "teacher", "activations", "scores", "cache")


def time_table(costs: Sequence[StageCost], cluster: Cluster) -> Table:
    """A row a stage: where the time of a step goes."""
    title = f"Seconds of a step on {cluster.devices} x {cluster.device.name} (of labels: of a batch)"
    table = _table(title, "stage", *PHASES, "links", "slowest", "data", "step")
    for cost in costs:
        phases = [_number(cost.phases.get(phase, 0.0)) for phase in PHASES]
        waits = map(_number, (cost.links, cost.slowest, cost.data))
        table.add_row(cost.stage, *phases, *waits, _number(cost.seconds))
    return table


def speed_table(costs: Sequence[StageCost], hours: float) -> Table:
    """A row a stage: how much audio and text a second, and how many days."""
    table = _table(
        f"Speed, and days for {hours:,g} hours of audio",
        *("stage", "batches", "on each", "audio a step, h", "audio h an hour", "text tokens a second"),
        *("steps for them", "days", "recipe's steps", "days"),
    )
    for cost in costs:
        own = ["", ""]
        if cost.steps is not None:
            own = [f"{cost.steps:,}", _number(cost.steps * cost.seconds / 86_400)]
        table.add_row(
            cost.stage,
            str(cost.micro_batches),
            str(cost.rounds),
            _number(cost.audio / 3600),
            f"{cost.speed:,.0f}",
            f"{cost.tokens / cost.seconds:,.0f}",
            f"{hours * 3600 / cost.audio:,.0f}",
            _number(cost.days(hours)),
            *own,
        )
    return table


def memory_table(costs: Sequence[StageCost], device: Device) -> Table:
    """A row a stage: what is in the memory of a device at the worst moment, in GB, and what a checkpoint takes."""
    title = f"Memory of a device, GB (it has {device.memory / 1e9:,.0f})"
    table = _table(title, "stage", *ITEMS, "peak", "saved")
    for cost in costs:
        items = [_number(cost.memory.get(item, 0.0) / 1e9) for item in ITEMS]
        table.add_row(cost.stage, *items, _number(cost.peak / 1e9), _number(cost.checkpoint / 1e9))
    return table


def fits(costs: Sequence[StageCost], device: Device) -> Iterator[str]:
    """A line for each stage: whether its peak fits in the memory of a device."""
    for cost in costs:
        used = f"{cost.peak / 1e9:.3g} of {device.memory / 1e9:.3g} GB"
        if cost.peak <= device.memory:
            yield f"{cost.stage}: fits: {used}"
        else:
            largest = max(cost.memory, key=cost.memory.__getitem__)
            yield f"{cost.stage}: does not fit: {used}; the largest item is {largest}"


def not_counted(recipe: Recipe) -> Iterator[str]:
    """What stages do that the plan has no price for, a line each."""
    for name, stage in recipe.stages.items():
        if isinstance(stage, LabelStageSettings) and stage.decoding.engine == "vllm":
            yield f"{name}: vLLM's labels are priced as those of this process, and are quicker on an accelerator"
        if not isinstance(stage, OpdStageSettings):
            continue
        if is_served(recipe, stage):
            yield f"{name}: the teacher's servers are other devices, not counted and taken to keep up"
        if stage.offload_teacher:
            yield f"{name}: the copying of an offloaded teacher, there and back in every micro-batch, is not counted"
        if stage.objective.rollouts.engine == "vllm":
            yield f"{name}: vLLM's rollouts are priced as the drafted ones of this process, and its memory not counted"


def grounds(device: Device, assumed: Assumptions) -> Iterator[str]:
    """What is measured and what is assumed, a line each."""
    shares = device.shares
    how = "measured" if device.shares_measured else "assumed, measured on no such device"
    yield f"ceilings: {device.source}"
    yield (
        f"shares of them, {how}: products {shares.products:.0%}, memory {shares.bandwidth:.0%} for weights and "
        f"{shares.sweeps:.0%} between products, links {shares.links:.0%}; a layer costs at least "
        f"{1000 * device.layer_seconds:.2g} ms"
    )
    yield (
        f"assumed: utterances of {assumed.utterance_seconds:g} s with {assumed.tokens_per_second:g} tokens a second, "
        f"the slowest device {assumed.slowest - 1:.0%} behind the mean"
    )
    heard = "measured" if device.shares_measured else "assumed, and less than half of what was measured on a CPU"
    yield f"features of one model: {device.hearing:,.0f} s of audio a second and core, {heard}"
    yield (
        f"measured on a CPU (docs/performance.md): padding {assumed.padding:.0%}, the longest transcript of a batch "
        f"{LONGEST_TRANSCRIPT:.1f} times the mean, passes of a rollout at {assumed.draft_error:.0%} wrong words in the "
        "draft"
    )


def _number(value: float) -> str:
    """Two digits, and nothing for nothing."""
    if value == 0:
        return ""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}" if value >= 0.001 else "< 0.001"


def _table(title: str, *headers: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, header in enumerate(headers):
        table.add_column(header, justify="right" if place else "left", no_wrap=not place)
    return table
