"""Commands on recipes: run, plan, train, calibrate."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from arkasr.cli.app import Overrides, app
from arkasr.errors import InputError, nearest_of

TRAINING_KINDS = ("ctc", "sft", "opd")


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="Recipe file.")],
    output: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/NAME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Tiny models, data and step counts; same code.")] = False,
    overrides: Overrides = None,
) -> None:
    """Run a recipe from its first stage to the report."""
    from arkasr import processes
    from arkasr.progress import Progress
    from arkasr.recipe.load import load_settings
    from arkasr.recipe.settings import Recipe
    from arkasr.recipe.smoke import shrink
    from arkasr.report.terminal import print_results
    from arkasr.run.run import run_recipe

    settings = load_settings(Recipe, recipe, overrides or [])
    if smoke:
        settings = shrink(settings)
    processes.start()
    folder = run_recipe(settings, output or Path("runs") / settings.name, resume=resume, progress=Progress())
    if settings.evaluation.sets and processes.is_first_rank():
        print_results(folder.path, Console())
        print(f"report: {folder.path / 'report.html'}")
    processes.finish()


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="Recipe file.")],
    gpus: Annotated[int | None, typer.Option(min=1, help="Estimate the cost on this number of devices.")] = None,
    hours: Annotated[float, typer.Option(min=0, help="Hours of audio for the estimate in days.")] = 100_000,
    device: Annotated[str, typer.Option(help="h100, h200, a100, or a file of `python -m benchmarks.plan`.")] = "h100",
    utterance_seconds: Annotated[float, typer.Option(min=0.1, max=30, help="Mean length of an utterance.")] = 10,
    tokens_per_second: Annotated[float, typer.Option(min=0, help="Tokens of a transcript per second of audio.")] = 4,
    draft_error: Annotated[float, typer.Option(min=0, max=1, help="Share of wrong words in a draft, 0 to 1.")] = 0.05,
    smoke: Annotated[bool, typer.Option("--smoke", help="Plan what `run --smoke` would do.")] = False,
    overrides: Overrides = None,
) -> None:
    """Check a recipe and print its stages; with --gpus also their cost. Needs no data and no models."""
    from arkasr.recipe.load import load_settings
    from arkasr.recipe.plan import disk_notes, plan_table, variants_table
    from arkasr.recipe.settings import Recipe
    from arkasr.recipe.smoke import shrink

    settings = load_settings(Recipe, recipe, overrides or [])
    if smoke:
        settings = shrink(settings)
    console = Console()
    console.print(plan_table(settings))
    console.print(variants_table(settings))
    for line in disk_notes(settings):
        console.print(line, highlight=False, soft_wrap=True)
    if gpus is None:
        return
    from arkasr.cost import tables
    from arkasr.cost.assumptions import Assumptions
    from arkasr.cost.device import device_called
    from arkasr.cost.estimate import Cluster, stage_costs

    cluster = Cluster(device_called(device), gpus)
    assumptions = Assumptions(utterance_seconds, tokens_per_second, draft_error)
    costs = stage_costs(settings, cluster, assumptions)
    console = Console(width=max(console.width, tables.WIDTH))
    console.print(tables.time_table(costs, cluster))
    console.print(tables.speed_table(costs, hours))
    console.print(tables.memory_table(costs, cluster.device))
    notes = [*tables.fits(costs, cluster.device), *tables.not_counted(settings)]
    for line in [*notes, "", *tables.basis(cluster.device, assumptions)]:
        console.print(line, highlight=False, soft_wrap=True)


@app.command()
def train(
    kind: Annotated[str, typer.Argument(help="ctc, sft or opd.")],
    config: Annotated[Path, typer.Argument(help="Recipe file with one stage of that kind.")],
    output: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/NAME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder.")] = False,
    stage: Annotated[str | None, typer.Option(help="Name of the stage, if several are of the kind.")] = None,
    overrides: Overrides = None,
) -> None:
    """Run one training stage of a recipe."""
    from arkasr import processes
    from arkasr.progress import Progress
    from arkasr.recipe.load import load_settings
    from arkasr.recipe.settings import Recipe
    from arkasr.run.run import run_one_stage

    settings = load_settings(Recipe, config, overrides or [])
    name = choose_stage(settings.stages, kind, stage, config)
    processes.start()
    model = run_one_stage(settings, name, output or Path("runs") / settings.name, resume=resume, progress=Progress())
    if processes.is_first_rank():
        print(f"model: {model}")
    processes.finish()


@app.command()
def calibrate(
    config: Annotated[Path, typer.Argument(help="Recipe file with an opd stage.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder of the run with the earlier stages; default runs/NAME.")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Name of the opd stage, if there are several.")] = None,
    overrides: Overrides = None,
) -> None:
    """Measure rollouts and support without an optimizer step, and judge whether OPD is likely to work."""
    from arkasr.recipe.load import load_settings
    from arkasr.recipe.settings import Recipe
    from arkasr.run.run import calibrate_stage

    settings = load_settings(Recipe, config, overrides or [])
    name = choose_stage(settings.stages, "opd", stage, config)
    calibration = calibrate_stage(settings, name, output or Path("runs") / settings.name)
    console = Console()
    for metric, value in sorted(calibration.metrics.items()):
        console.print(f"{metric:<36} {value:.4f}", highlight=False)
    for warning in calibration.warnings:
        console.print(f"OPD may not work: {warning}", highlight=False, soft_wrap=True)
    if not calibration.warnings:
        console.print("no reason against OPD was found", highlight=False)


def choose_stage(stages: dict[str, Any], kind: str, name: str | None, source: Path) -> str:
    """The only stage of a kind, or the stage called `name`.

    Raises:
        InputError: the kind is unknown, no stage has it, or several stages have it and no name is given.
    """
    if kind not in TRAINING_KINDS:
        raise InputError(f"train {kind}: {nearest_of(kind, TRAINING_KINDS)}")
    names = [stage for stage, settings in stages.items() if settings.kind == kind]
    if name is not None:
        names = [stage for stage in names if stage == name]
    if len(names) == 1:
        return names[0]
    if not names:
        raise InputError(f"{source}: no stage of kind {kind}" + (f" called {name!r}" if name else ""))
    raise InputError(f"{source}: several stages of kind {kind}; choose with --stage: {', '.join(names)}")
