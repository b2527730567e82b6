"""The printed estimate: time, speed and memory of every stage, whether it fits, and the figures that it uses."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table

from arkasr.cost.assumptions import LONGEST_TO_MEAN, Assumptions
from arkasr.cost.device import Device
from arkasr.cost.estimate import SECONDS_PER_DAY, SECONDS_PER_HOUR, Cluster, StageCost, is_served
from arkasr.recipe.settings import LabelStageSettings, OpdStageSettings, Recipe

WIDTH = 116  # terminal columns: a narrower table would break its numbers
PHASES = ("encode", "rollout", "teacher", "student", "backward", "optimizer")
ITEMS = ("weights", "gradients", "moments", "compute", "teacher", "activations", "temporary", "cache")


def time_table(costs: Sequence[StageCost], cluster: Cluster) -> Table:
    """A row for each stage: seconds of a step by phase."""
    title = f"Seconds of a step on {cluster.devices} x {cluster.device.name} (of labels: of a batch)"
    table = _table(title, "stage", *PHASES, "links", "slowest", "data", "step")
    for cost in costs:
        phases = [_number(cost.phases.get(phase, 0.0)) for phase in PHASES]
        waits = map(_number, (cost.link_seconds, cost.slowest_wait_seconds, cost.feature_wait_seconds))
        table.add_row(cost.stage, *phases, *waits, _number(cost.seconds))
    return table


def speed_table(costs: Sequence[StageCost], hours: float) -> Table:
    """A row for each stage: audio and tokens a second, and days for `hours` of audio and for the recipe's steps."""
    table = _table(
        f"Speed, and days for {hours:,g} hours of audio",
        *("stage", "batches", "rounds", "audio h per step", "audio h per hour", "tokens per second"),
        *("steps needed", "days", "recipe's steps", "days"),
    )
    for cost in costs:
        recipe_steps = recipe_days = ""
        if cost.steps is not None:
            recipe_steps, recipe_days = f"{cost.steps:,}", _number(cost.steps * cost.seconds / SECONDS_PER_DAY)
        table.add_row(
            cost.stage,
            str(cost.micro_batches),
            str(cost.micro_batches_per_device),
            _number(cost.audio / SECONDS_PER_HOUR),
            f"{cost.speed:,.0f}",
            f"{cost.tokens / cost.seconds:,.0f}",
            f"{hours * SECONDS_PER_HOUR / cost.audio:,.0f}",
            _number(cost.days(hours)),
            recipe_steps,
            recipe_days,
        )
    return table


def memory_table(costs: Sequence[StageCost], device: Device) -> Table:
    """A row for each stage: GB of a device at the peak, by item, and GB of a checkpoint."""
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
            largest, amount = max(cost.memory.items(), key=lambda item: item[1])
            yield f"{cost.stage}: does not fit: {used}; the largest item is {largest}, {amount / 1e9:.3g} GB"


def not_counted(recipe: Recipe) -> Iterator[str]:
    """A line for each part of the recipe that the estimate leaves out."""
    if recipe.tokenizer is not None and recipe.tokenizer.vocab_size is None:
        yield f"tokenizer: counted with all tokens of {recipe.tokenizer.pruned_from}; the pruned vocabulary is smaller"
    for name, stage in recipe.stages.items():
        if isinstance(stage, LabelStageSettings) and stage.decoding.engine == "vllm":
            yield f"{name}: labels are counted as if decoded without vLLM, which is faster on an accelerator"
        if not isinstance(stage, OpdStageSettings):
            continue
        if is_served(recipe, stage):
            yield f"{name}: the teacher's servers are not counted; they are assumed to keep up"
        if stage.offload_teacher:
            yield f"{name}: the copies of the offloaded teacher to and from the device are not counted"
        if stage.teacher_cache is not None:
            yield f"{name}: the teacher is counted as if it had no cache, which saves work from the second epoch on"
        if stage.objective.rollouts.engine == "vllm":
            yield f"{name}: rollouts are counted as if decoded without vLLM; its memory is not counted"


def basis(device: Device, assumptions: Assumptions) -> Iterator[str]:
    """The measured and the assumed figures of the estimate, one group in each line."""
    shares = device.shares
    origin = "measured" if device.shares_measured else "assumed, not measured on such a device"
    yield f"ceilings: {device.source}"
    yield (
        f"shares of the ceilings, {origin}: matrix products {shares.products:.0%}, memory bandwidth "
        f"{shares.bandwidth:.0%} for weights and {shares.elementwise:.0%} for what is between matrix products, "
        f"links {shares.links:.0%}; a layer takes at least "
        f"{1000 * device.layer_seconds:.2g} ms"
    )
    yield (
        f"assumed: utterances of {assumptions.utterance_seconds:g} s, {assumptions.tokens_per_second:g} tokens a second"
        f", the slowest device {assumptions.slowest_to_mean - 1:.0%} slower than the mean"
    )
    feature_origin = "measured" if device.shares_measured else "assumed, less than half of the rate measured on a CPU"
    yield f"features of one model: {device.feature_rate:,.0f} s of audio a second on each core, {feature_origin}"
    yield (
        f"measured on a CPU (docs/performance.md): padding {assumptions.padding:.0%}; the longest transcript of a "
        f"batch {LONGEST_TO_MEAN:.1f} times the mean; "
        f"rollout passes for drafts with {assumptions.draft_error:.0%} wrong words"
    )


def _number(value: float) -> str:
    """Two digits; empty for zero."""
    if value == 0:
        return ""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}" if value >= 0.001 else "< 0.001"


def _table(title: str, *headers: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column, header in enumerate(headers):
        table.add_column(header, justify="right" if column else "left", no_wrap=not column)
    return table
