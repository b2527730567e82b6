"""One stage of a recipe, from the names in the file to a finished model or manifest in the run's folder."""

from collections.abc import Sequence

from accelerate import Accelerator

from arkasr.data.batches import DurationBatchSampler
from arkasr.data.examples import ExampleDataset, seconds_of
from arkasr.data.manifest import Utterance, write_manifest
from arkasr.errors import InputError
from arkasr.model.recognize import RecognitionSettings
from arkasr.model.recognizer import Recognizer
from arkasr.recipe.checks import check_heard
from arkasr.recipe.development import development_error_rate
from arkasr.recipe.engines import engine_for
from arkasr.recipe.folder import write_json
from arkasr.recipe.progress import Progress
from arkasr.recipe.settings import (
    CtcStageSettings,
    LabelStageSettings,
    OpdStageSettings,
    SftStageSettings,
    TrainingStageSettings,
)
from arkasr.recipe.workshop import Workshop
from arkasr.teacher.label import label
from arkasr.train.calibrate import Calibration, calibrate
from arkasr.train.loop import train
from arkasr.train.settings import OptimizationSettings
from arkasr.train.stage import Stage
from arkasr.train.stages.ctc import CtcStage
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from arkasr.train.stream import BatchStream

COMPUTED_IN = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}


def run_training_stage(
    workshop: Workshop, name: str, seed: int, settings: TrainingStageSettings, progress: Progress
) -> None:
    """Train a stage and write its model; continues from the newest checkpoint."""
    folder = workshop.folder
    student = workshop.recognizer(settings.start, seed)
    stage = build_stage(workshop, student, settings, seed)
    stream = build_stream(workshop, stage, settings, seed)
    dev = workshop.set(settings.dev) if settings.dev is not None and not isinstance(stage, CtcStage) else None
    if isinstance(settings, OpdStageSettings):
        calibration_file = folder.stage(name, seed) / "calibration.json"
        if not calibration_file.exists():
            calibration = run_calibration(workshop, stage, settings, seed)
            write_json(calibration_file, calibration.support_row() | {"warnings": calibration.warnings})
            for warning in calibration.warnings:
                progress.console.print(f"{name}: doubtful: {warning}", highlight=False, soft_wrap=True)
    with progress.stage(f"{name} (seed {seed})", settings.optimization.steps) as on_step:
        train(
            stage,
            stream,
            settings.optimization,
            folder.stage(name, seed),
            seed=seed,
            evaluate=(lambda: development_error_rate(workshop, student, dev)) if dev else None,
            on_step=on_step,
            accelerator=Accelerator(
                mixed_precision=settings.optimization.mixed_precision, cpu=workshop.device.type == "cpu"
            ),
        )
    stage.close()
    folder.save_model(student, name, seed)


def run_calibration(workshop: Workshop, stage: Stage, settings: OpdStageSettings, seed: int) -> Calibration:
    """Measure the support of a stage that has not been trained yet, on batches of its own training set."""
    stream = build_stream(workshop, stage, settings, seed)
    return calibrate(stage, iter(stream), settings.calibration_batches)


def run_label_stage(workshop: Workshop, name: str, seed: int, settings: LabelStageSettings, progress: Progress) -> None:
    """Let the teacher label a set; writes what was dropped, the counts, and last the labels."""
    teacher = workshop.recognizer(settings.start, seed)
    utterances = workshop.set(settings.audio)
    recognition = RecognitionSettings(settings.batch_seconds, settings.max_new_tokens)
    engine = engine_for(teacher, settings.decoding, settings.max_new_tokens)
    with progress.count(f"{name} (seed {seed})", len(utterances)) as advance:
        labels = label(
            teacher,
            utterances,
            recognition,
            engine=engine,
            drop_failures=settings.drop_failures,
            memory=workshop.memory,
            on_batch=advance,
        )
    if engine is not None:
        engine.close()
    folder = workshop.folder
    write_manifest(folder.stage(name, seed) / "dropped.jsonl", labels.dropped)
    write_json(folder.stage(name, seed) / "counts.json", labels.counts)
    if not labels.rows:
        raise InputError(
            f"stages.{name}: every one of the {len(utterances)} labels was dropped; "
            f"{folder.stage(name, seed) / 'dropped.jsonl'} says why; train the teacher further"
        )
    write_manifest(folder.labels(name, seed), labels.rows)


def build_stage(workshop: Workshop, student: Recognizer, settings: TrainingStageSettings, seed: int) -> Stage:
    """The stage object of a training stage."""
    if isinstance(settings, CtcStageSettings):
        return CtcStage(student, settings.augmentation)
    if isinstance(settings, SftStageSettings):
        return SupervisedStage(student, settings.augmentation)
    assert isinstance(settings, OpdStageSettings)
    teacher = workshop.recognizer(settings.teacher, seed)
    rollouts = settings.objective.rollouts
    engine = engine_for(
        student,
        rollouts,
        settings.objective.max_new_tokens,
        dtype=COMPUTED_IN[settings.optimization.mixed_precision],
        staleness=rollouts.staleness,
    )
    return DistillationStage(student, teacher, settings.objective, drafts_of(workshop, settings, seed), engine)


def drafts_of(workshop: Workshop, settings: OpdStageSettings, seed: int) -> dict[str, str]:
    """Texts to try first, by utterance.

    Raises:
        InputError: not one of them is of an utterance that the stage hears.
    """
    if settings.drafts is None:
        return {}
    texts = {item.id: item.text for item in workshop.heard(settings.drafts, seed) if item.text}
    if not any(utterance.id in texts for utterance in workshop.heard(settings.train, seed)):
        raise InputError(
            f"drafts: {settings.drafts!r} has no text for any utterance of {settings.train!r}; name a set or label "
            "stage with the same ids, or leave `drafts` out"
        )
    return texts


def build_stream(workshop: Workshop, stage: Stage, settings: TrainingStageSettings, seed: int) -> BatchStream:
    """The batches that a training stage hears."""
    utterances = workshop.heard(settings.train, seed)
    durations = [seconds_of(utterance) for utterance in utterances]
    check_heard(f"set {settings.train}", utterances, durations, stage, settings)
    listeners = {stage.student.listener: stage.student.features}
    if isinstance(stage, DistillationStage):
        listeners[stage.teacher.listener] = stage.teacher.features
    workers = settings.optimization.data_workers
    dataset = ExampleDataset(utterances, listeners, workshop.memory if workers == 0 else None)
    sampler = batch_sampler(utterances, durations, stage.student, settings.optimization, seed)
    return BatchStream(dataset, sampler, workers)


def batch_sampler(
    utterances: Sequence[Utterance],
    durations: Sequence[float],
    student: Recognizer,
    settings: OptimizationSettings,
    seed: int,
) -> DurationBatchSampler:
    """Duration-bucketed batches within the budget of a stage."""
    text_tokens = None
    if settings.batch_tokens is not None:
        text_tokens = [len(student.transcript_ids(utterance.text or "")) for utterance in utterances]
    return DurationBatchSampler(
        durations,
        max_audio_seconds=settings.batch_seconds,
        text_tokens=text_tokens,
        max_text_tokens=settings.batch_tokens,
        max_utterances=settings.batch_utterances,
        shuffle=True,
        seed=seed,
    )
