"""Tables of what a recipe would do: its stages and its variants. Nothing is run, and no data or model is read."""

from collections.abc import Iterator

from rich import box
from rich.table import Table

from arkasr.recipe.settings import LabelStageSettings, OpdStageSettings, Recipe, TrainingStageSettings


def plan_table(recipe: Recipe) -> Table:
    """One row per stage, in the order in which they run."""
    table = _table(f"Stages of {recipe.name}", "stage", "kind", "starts from", "audio", "learns from", "steps")
    for name, stage in recipe.stages.items():
        runs = "" if stage.once or len(recipe.seeds) == 1 else f" x {len(recipe.seeds)}"
        if isinstance(stage, LabelStageSettings):
            table.add_row(name, stage.kind, stage.start, stage.audio, "", runs.strip())
            continue
        steps = f"{stage.optimization.steps}{runs}"
        table.add_row(name, stage.kind, stage.start, stage.train, source_of(recipe, stage), steps)
    return table


def variants_table(recipe: Recipe) -> Table:
    """One row per variant: the stages that lead to it, and their updates together."""
    table = _table("Variants", "variant", "stages", "updates")
    for variant, name in recipe.variants.items():
        table.add_row(variant, " > ".join(recipe.chain(name)) or name, str(recipe.updates(name)))
    return table


def disk_notes(recipe: Recipe) -> Iterator[str]:
    """A line for each stage that keeps more on disk than models and checkpoints."""
    for name, stage in recipe.stages.items():
        if isinstance(stage, OpdStageSettings) and stage.teacher_cache is not None:
            kept = "embeddings" if stage.teacher_cache == "audio" else "embeddings and states"
            yield (
                f"{name}: up to {stage.teacher_cache_gib:g} GiB of the run's folder hold {kept} of {stage.teacher} "
                "until the run is finished"
            )


def source_of(recipe: Recipe, stage: TrainingStageSettings) -> str:
    """What a stage learns from: the labels of its set, labels written by a model, or a model's scores."""
    if isinstance(stage, OpdStageSettings):
        return f"scores of {stage.teacher}"
    if stage.train in recipe.sets:
        return "labels"
    return f"labels by {recipe.stages[stage.train].start}"


def _table(title: str, *headers: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    return table
