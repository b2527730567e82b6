"""Runs the training stages of a recipe: looks up models and data, trains, and saves the model."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing

from arkasr import processes
from arkasr.errors import InputError
from arkasr.progress import Progress
from arkasr.recipe.settings import CtcStageSettings, OpdStageSettings, SftStageSettings, TrainingStageSettings
from arkasr.recipe.settings.continuation import schedule_steps, seed_of_order, steps_before
from arkasr.recipe.settings.rules import check_parts_of_stages
from arkasr.recognizers.recognizer import Recognizer
from arkasr.run.batches import build_stream
from arkasr.run.checks import check_token_limits
from arkasr.run.context import RunContext
from arkasr.run.development import development_error_rate
from arkasr.run.engines import engine_for
from arkasr.run.folder import write_json
from arkasr.run.teachers import teacher_of
from arkasr.train.calibrate import Calibration, calibrate
from arkasr.train.continuation import Continuation
from arkasr.train.distribution import gathered_weights
from arkasr.train.loop import train
from arkasr.train.stage import Stage
from arkasr.train.stages.ctc import CtcStage
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from arkasr.train.stream import BatchStream

COMPUTE_DTYPE = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}


def run_training_stage(
    context: RunContext,
    name: str,
    seed: int,
    settings: TrainingStageSettings,
    progress: Progress,
    on_begin: Callable[[], None],
) -> None:
    """Train a stage from its newest checkpoint, if there is one, and write its model.

    `on_begin` is called when models and data have been loaded and checked, before their first use.
    """
    folder = context.folder
    student = context.recognizer(settings.start, seed)
    with ExitStack() as stack:

        def build() -> tuple[Stage, BatchStream]:
            # Later stages of the same model are checked too: a wrong name should not end a run after days.
            origin = context.recipe.origin(name)
            check_parts_of_stages(context.recipe, origin, student.parts)
            check_token_limits(context.recipe, origin, student)
            stage = stack.enter_context(closing(build_stage(context, student, settings, seed)))
            return stage, build_stream(
                context, stage, name, seed, rank=processes.rank(), world_size=processes.world_size()
            )

        stage, stream = processes.raise_if_any_fails(build)
        on_begin()
        dev = context.set(settings.dev) if settings.dev is not None and not isinstance(stage, CtcStage) else None
        if isinstance(settings, OpdStageSettings):
            processes.broadcast_from_first(lambda: calibrate_once(context, stage, name, seed, progress))
        with progress.stage(f"{name} (seed {seed})", settings.optimization.steps) as on_step:
            train(
                stage,
                stream,
                settings.optimization,
                folder.stage(name, seed),
                seed=seed_of_order(context.recipe, name, seed),
                continues=continuation_of(context, name, seed),
                schedule_steps=schedule_steps(context.recipe, name),
                evaluate=(lambda: development_error_rate(context, student, dev)) if dev else None,
                on_step=on_step,
                on_warning=lambda message: progress.print(f"{name}: {message}"),
            )
    weights = gathered_weights(student.model)
    if processes.is_first_rank():
        folder.save_model(student, name, seed, weights)


def calibrate_once(context: RunContext, stage: Stage, name: str, seed: int, progress: Progress) -> None:
    """Measure the support that an OPD stage starts from, unless `calibration.json` exists already."""
    path = context.folder.stage(name, seed) / "calibration.json"
    if path.exists():
        return
    calibration = run_calibration(context, stage, name, seed)
    write_json(path, calibration.support_row() | {"warnings": calibration.warnings})
    for warning in calibration.warnings:
        progress.print(f"{name}: OPD may not work: {warning}")


def run_calibration(context: RunContext, stage: Stage, name: str, seed: int) -> Calibration:
    """Measure the support of a stage before its first step, on batches of its training set."""
    settings = context.recipe.stages[name]
    assert isinstance(settings, OpdStageSettings)
    # No optimizer step is taken. `accumulation=1` makes a streamed dataset one lane, that is, one sequence of files
    # (docs/data.md).
    stream = build_stream(context, stage, name, seed, rank=0, world_size=1, accumulation=1)
    return calibrate(stage, iter(stream), settings.calibration_batches, settings.optimization.mixed_precision)


def continuation_of(context: RunContext, name: str, seed: int) -> Continuation | None:
    """The stage whose schedule this stage continues; None if it begins its own."""
    recipe = context.recipe
    settings, previous = recipe.stages[name], recipe.stages.get(recipe.stages[name].start)
    assert isinstance(settings, TrainingStageSettings)
    if not settings.continues:
        return None
    assert isinstance(previous, TrainingStageSettings)
    return Continuation(
        folder=context.folder.stage(settings.start, context.seed_of(settings.start, seed)),
        steps=previous.optimization.steps,
        steps_before=steps_before(recipe, name),
        same_set=settings.train == previous.train,
    )


def build_stage(context: RunContext, student: Recognizer, settings: TrainingStageSettings, seed: int) -> Stage:
    """Build the stage object that the training loop calls."""
    if isinstance(settings, CtcStageSettings):
        return CtcStage(student, settings.augmentation)
    if isinstance(settings, SftStageSettings):
        return SupervisedStage(student, settings.augmentation)
    assert isinstance(settings, OpdStageSettings)
    drafts = drafts_of(context, settings, seed)
    with ExitStack() as on_failure:
        teacher = teacher_of(context, settings, seed)
        on_failure.callback(teacher.close)
        engine = engine_for(
            student,
            settings.objective.rollouts,
            settings.objective.max_new_tokens,
            dtype=COMPUTE_DTYPE[settings.optimization.mixed_precision],
        )
        if engine is not None:
            on_failure.callback(engine.close)
        stage = DistillationStage(student, teacher, settings.objective, drafts, engine, settings.augmentation)
        on_failure.pop_all()
    return stage


def drafts_of(context: RunContext, settings: OpdStageSettings, seed: int) -> Mapping[str, str]:
    """Draft texts for rollouts, by utterance id.

    Raises:
        InputError: no draft belongs to an utterance of the training set. A streamed set cannot be checked.
    """
    if settings.drafts is None:
        return {}
    texts = context.training_utterances(settings.drafts, seed).texts()
    has_manifest = settings.train not in context.recipe.sets or context.recipe.sets[settings.train].dataset is None
    if has_manifest and not any(
        utterance.id in texts for utterance in context.training_utterances(settings.train, seed)
    ):
        raise InputError(
            f"drafts: {settings.drafts!r} has no text for any utterance of {settings.train!r}; name a set or label "
            "stage with the same ids, or leave `drafts` out"
        )
    return texts
