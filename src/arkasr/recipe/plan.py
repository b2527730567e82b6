"""What a recipe would do, as tables: its stages with what they hear and from where they start, and its variants."""

from rich.table import Table

from arkasr.recipe.settings import LabelStageSettings, OpdStageSettings, Recipe, TrainingStageSettings


def plan_table(recipe: Recipe) -> Table:
    """A row a stage, in the order in which they run."""
    table = Table("stage", "kind", "starts from", "hears", "labels", "teacher", "steps", "runs", title=recipe.name)
    for name, stage in recipe.stages.items():
        runs = "once" if stage.once else f"{len(recipe.seeds)} x"
        if isinstance(stage, LabelStageSettings):
            table.add_row(name, stage.kind, stage.start, stage.audio, "written", stage.start, "", runs)
            continue
        teacher = stage.teacher if isinstance(stage, OpdStageSettings) else ""
        steps = str(stage.optimization.steps)
        table.add_row(name, stage.kind, stage.start, stage.train, labels_of(recipe, stage), teacher, steps, runs)
    return table


def variants_table(recipe: Recipe) -> Table:
    """A row a variant: the chain of stages behind it and the updates that they sum up to."""
    table = Table("variant", "stages", "updates")
    for variant, name in recipe.variants.items():
        table.add_row(variant, " > ".join(recipe.chain(name)) or name, str(recipe.updates(name)))
    return table


def labels_of(recipe: Recipe, stage: TrainingStageSettings) -> str:
    """Whose labels a stage learns from: `given`, `withheld` (none), or a label stage's."""
    if stage.train in recipe.sets:
        return recipe.sets[stage.train].labels
    labelling = recipe.stages[stage.train]
    return f"by {labelling.start}"
