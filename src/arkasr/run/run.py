"""Run a recipe: stages in order, evaluation, report. Finished work is not repeated."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean

from arkasr import processes
from arkasr.data.manifests.utterances import Utterances
from arkasr.progress import Progress
from arkasr.recipe.settings import LabelStageSettings, OpdStageSettings, Recipe, TrainingStageSettings
from arkasr.recognizers.device import default_device
from arkasr.report.page import write_report
from arkasr.run.checks import check_test_sets
from arkasr.run.context import RunContext
from arkasr.run.environment import RunSession
from arkasr.run.evaluation import collect_results, evaluate_variant, is_evaluated
from arkasr.run.folder import RunFolder, write_json
from arkasr.run.inputs import Inputs
from arkasr.run.labels import run_label_stage
from arkasr.run.lock import lock_run_folder
from arkasr.run.outlook import Outlook, parts_of
from arkasr.run.stages import build_stage, run_calibration, run_training_stage
from arkasr.train.calibrate import Calibration

# Of an utterance whose manifest does not give it. It only matters for the estimate of the time left.
UNKNOWN_SECONDS = 8.0


def run_recipe(recipe: Recipe, path: Path, *, resume: bool, progress: Progress) -> RunFolder:
    """Run the stages for every seed, evaluate every variant, write `results.json` and `report.html`.

    A stage with `once` runs for the first seed only. Without test sets, nothing is evaluated, and these two files are
    not written.

    Args:
        recipe: the checked recipe.
        path: folder of the run.
        resume: continue the run in `path`.
        progress: shows the progress.

    Raises:
        InputError: folder or data do not fit the recipe, or another run uses the folder.
    """
    with _open_run(recipe, path, resume=resume, progress=progress) as (context, inputs, session):
        check_test_sets(context)
        inputs.check_test_sets()
        utterances_in, utterance_seconds = partial(_utterances_in, context), partial(_utterance_seconds, context)
        outlook = Outlook(parts_of(recipe, utterances_in, utterance_seconds), progress.print)
        for seed in recipe.seeds:
            for name in recipe.stages:
                if context.seed_of(name, seed) == seed:
                    with outlook.next_part(is_finished=_result(context, name, seed).exists()):
                        run_stage(context, inputs, name, seed, progress)
                    session.save()
            for variant, name in recipe.variants.items():
                if recipe.evaluation.sets and context.seed_of(name, seed) == seed:
                    with outlook.next_part(is_finished=is_evaluated(context, variant, seed)):
                        evaluate_variant(context, inputs, variant, seed, progress)
                    session.save()
        if processes.is_first_rank():
            shutil.rmtree(context.folder.teacher_cache, ignore_errors=True)
            if recipe.evaluation.sets:
                write_json(path / "results.json", collect_results(context))
            session.save()
            if recipe.evaluation.sets:
                write_report(path)
        return context.folder


@contextmanager
def _open_run(
    recipe: Recipe, path: Path, *, resume: bool, progress: Progress
) -> Iterator[tuple[RunContext, Inputs, RunSession]]:
    """Lock the folder of the run; rank 0 creates it and the recipe's corpus where they are missing."""
    with ExitStack() as stack:

        def open_folder() -> RunFolder:
            if processes.is_first_rank():
                stack.enter_context(lock_run_folder(path, progress.print))
            return RunFolder.create(path, recipe, resume=resume or not processes.is_first_rank())

        context = RunContext(recipe, processes.run_on_first_rank_first(open_folder), default_device())
        processes.run_on_first_rank_first(lambda: context.corpus)
        inputs = processes.raise_if_any_fails(lambda: Inputs(context))
        yield context, inputs, RunSession(path / "environment.json", writes=processes.is_first_rank())


def run_stage(context: RunContext, inputs: Inputs, name: str, seed: int, progress: Progress) -> None:
    """Run one stage, unless it is finished.

    Raises:
        InputError: an input does not fit the recipe, or has changed since the run used it.
    """
    settings = context.recipe.stages[name]
    labels = isinstance(settings, LabelStageSettings)
    if processes.broadcast_from_first(_result(context, name, seed).exists):
        if labels and processes.is_first_rank():  # a killed run may have left the parts
            shutil.rmtree(context.folder.stage(name, seed) / "parts", ignore_errors=True)
        return
    inputs.check_stage(name)
    if isinstance(settings, LabelStageSettings):
        run_label_stage(context, name, seed, settings, progress, inputs.record)
    else:
        run_training_stage(context, name, seed, settings, progress, inputs.record)
    processes.barrier()


def _result(context: RunContext, name: str, seed: int) -> Path:
    """What a finished stage has written: labels, or a model."""
    labels = isinstance(context.recipe.stages[name], LabelStageSettings)
    return context.folder.labels(name, seed) if labels else context.folder.model(name, seed)


def _set_of(context: RunContext, name: str) -> Utterances:
    """A set; for a label stage, the set that it labels."""
    while name in context.recipe.stages:
        stage = context.recipe.stages[name]
        assert isinstance(stage, LabelStageSettings)
        name = stage.audio
    return context.set(name)


def _utterances_in(context: RunContext, name: str) -> int:
    return len(_set_of(context, name))


def _utterance_seconds(context: RunContext, name: str) -> float:
    """Seconds for which an utterance counts in a batch of a training stage, on average."""
    stage = context.recipe.stages[name]
    assert isinstance(stage, TrainingStageSettings)
    is_streamed = stage.train in context.recipe.sets and context.recipe.sets[stage.train].dataset is not None
    sample = [] if is_streamed else _set_of(context, stage.train)[:1_000]
    durations = [item.duration for item in sample if item.duration is not None]
    return max(fmean(durations or [UNKNOWN_SECONDS]), context.window_seconds(context.recipe.origin(name)))


def run_one_stage(recipe: Recipe, name: str, path: Path, *, resume: bool, progress: Progress) -> Path:
    """Run a single training stage for the first seed; the stages that it uses must be finished.

    Returns:
        The folder of the trained model.
    """
    with _open_run(recipe, path, resume=resume, progress=progress) as (context, inputs, session):
        run_stage(context, inputs, name, recipe.seeds[0], progress)
        session.save()
        return context.folder.model(name, recipe.seeds[0])


def calibrate_stage(recipe: Recipe, name: str, path: Path) -> Calibration:
    """Measure rollouts and support of an OPD stage without an optimizer step; writes nothing into the run's folder."""
    settings = recipe.stages[name]
    assert isinstance(settings, OpdStageSettings)
    context = RunContext(recipe, RunFolder(path, recipe.seeds[0]), default_device())
    Inputs(context).check_stage(name)
    seed = recipe.seeds[0]
    # A run may be using its cache. Drafts only save time here, and labels that do not exist yet cannot be drafts.
    has_drafts = (
        settings.drafts is None or settings.drafts in recipe.sets or _result(context, settings.drafts, seed).exists()
    )
    drafts = settings.drafts if has_drafts else None
    settings = settings.model_copy(update={"teacher_cache": None, "drafts": drafts})
    with closing(build_stage(context, context.recognizer(settings.start, seed), settings, seed)) as stage:
        return run_calibration(context, stage, name, seed)
