"""A recipe from its first stage to the report; what is finished is not done again."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from arkasr import processes
from arkasr.progress import Progress
from arkasr.recipe.settings import LabelStageSettings, OpdStageSettings, Recipe
from arkasr.recognizers.device import default_device
from arkasr.report.page import write_report
from arkasr.run.checks import check_test_sets
from arkasr.run.context import RunContext
from arkasr.run.environment import RunSession
from arkasr.run.evaluation import collect_results, evaluate_variant
from arkasr.run.folder import RunFolder, write_json
from arkasr.run.inputs import Inputs
from arkasr.run.labels import run_label_stage
from arkasr.run.lock import sole_use
from arkasr.run.stages import build_stage, run_calibration, run_training_stage
from arkasr.train.calibrate import Calibration


def run_recipe(recipe: Recipe, path: Path, *, resume: bool, progress: Progress) -> RunFolder:
    """Run every stage for every seed, evaluate every variant, write `results.json` and `report.html`.

    Args:
        recipe: checked.
        path: the run's folder.
        resume: continue a run that is there.
        progress: shows what is at work.

    Raises:
        InputError: the folder or the data is not as the recipe needs it, or another run is at work in the folder.
    """
    with _at_work(recipe, path, resume=resume, progress=progress) as (context, inputs, sitting):
        check_test_sets(context)
        inputs.check_tests()
        for seed in recipe.seeds:
            for name in recipe.stages:
                if context.seed_of(name, seed) == seed:
                    run_stage(context, inputs, name, seed, progress)
                    sitting.save()
            for variant, name in recipe.variants.items():
                if context.seed_of(name, seed) == seed:
                    evaluate_variant(context, inputs, variant, seed, progress)
                    sitting.save()
        if processes.is_first_rank():
            if recipe.evaluation.sets:
                write_json(path / "results.json", collect_results(context))
            sitting.save()
            if recipe.evaluation.sets:
                write_report(path)
        return context.folder


@contextmanager
def _at_work(
    recipe: Recipe, path: Path, *, resume: bool, progress: Progress
) -> Iterator[tuple[RunContext, Inputs, RunSession]]:
    """The run's folder, for this run alone, and the recipe's corpus: the first process makes what is not there yet."""
    with ExitStack() as stack:

        def opened() -> RunFolder:
            if processes.is_first_rank():
                stack.enter_context(sole_use(path, progress.print))
            return RunFolder.create(path, recipe, resume=resume or not processes.is_first_rank())

        context = RunContext(recipe, processes.first_rank_first(opened), default_device())
        processes.first_rank_first(lambda: context.corpus)
        inputs = processes.raise_if_any_fails(lambda: Inputs(context))
        yield context, inputs, RunSession(path / "environment.json", writes=processes.is_first_rank())


def run_stage(context: RunContext, inputs: Inputs, name: str, seed: int, progress: Progress) -> None:
    """Run one stage, unless it is finished.

    Raises:
        InputError: what it uses is not as the recipe needs it, or not what this run has used before.
    """
    settings = context.recipe.stages[name]
    labels = isinstance(settings, LabelStageSettings)
    result = context.folder.labels(name, seed) if labels else context.folder.model(name, seed)
    if processes.broadcast_from_first(result.exists):
        if labels and processes.is_first_rank():  # what a kill between the labels and this has left
            shutil.rmtree(context.folder.stage(name, seed) / "parts", ignore_errors=True)
        return
    inputs.check_stage(name)
    if isinstance(settings, LabelStageSettings):
        run_label_stage(context, name, seed, settings, progress, inputs.record)
    else:
        run_training_stage(context, name, seed, settings, progress, inputs.record)
    processes.barrier()


def run_one_stage(recipe: Recipe, name: str, path: Path, *, resume: bool, progress: Progress) -> Path:
    """Run a single training stage for the first seed; what it starts from must be there.

    Returns:
        The folder of the trained model.
    """
    with _at_work(recipe, path, resume=resume, progress=progress) as (context, inputs, sitting):
        run_stage(context, inputs, name, recipe.seeds[0], progress)
        sitting.save()
        return context.folder.model(name, recipe.seeds[0])


def calibrate_stage(recipe: Recipe, name: str, path: Path) -> Calibration:
    """Measure what an OPD stage would start from, without a step; nothing is written."""
    settings = recipe.stages[name]
    assert isinstance(settings, OpdStageSettings)
    context = RunContext(recipe, RunFolder(path, recipe.seeds[0]), default_device())
    Inputs(context).check_stage(name)
    seed = recipe.seeds[0]
    with closing(build_stage(context, context.recognizer(settings.start, seed), settings, seed)) as stage:
        return run_calibration(context, stage, name, seed)
