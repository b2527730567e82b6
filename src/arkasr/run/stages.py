"""One stage of a recipe, from the names in the file to a finished model or manifest in the run's folder."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import torch

from arkasr import processes
from arkasr.data.batches import POOL, DurationBatchSampler
from arkasr.data.examples import ExampleDataset
from arkasr.data.manifests.manifest import Utterance, write_manifest
from arkasr.data.manifests.utterances import Utterances
from arkasr.errors import InputError
from arkasr.progress import Progress
from arkasr.recipe.continuation import schedule_steps, seed_of_order, steps_before
from arkasr.recipe.settings import (
    CtcStageSettings,
    LabelStageSettings,
    OpdStageSettings,
    SftStageSettings,
    TrainingStageSettings,
)
from arkasr.recognizers.recognize import RecognitionSettings
from arkasr.recognizers.recognizer import Recognizer
from arkasr.run.checks import check_heard
from arkasr.run.development import development_error_rate
from arkasr.run.engines import engine_for, engine_while_needed
from arkasr.run.folder import write_json
from arkasr.run.parts import Parts, Row
from arkasr.run.streamed import build_dataset_stream
from arkasr.run.teachers import teacher_of
from arkasr.run.workshop import Workshop
from arkasr.teacher.label import label
from arkasr.train.calibrate import Calibration, calibrate
from arkasr.train.continuation import Continuation
from arkasr.train.distribution import computing_in, gathered_weights
from arkasr.train.loop import train
from arkasr.train.settings import OptimizationSettings
from arkasr.train.stage import Stage
from arkasr.train.stages.ctc import CtcStage
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from arkasr.train.stream import BatchStream, Unheard

COMPUTED_IN = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}


def run_training_stage(
    workshop: Workshop,
    name: str,
    seed: int,
    settings: TrainingStageSettings,
    progress: Progress,
    on_begin: Callable[[], None],
) -> None:
    """Train a stage and write its model; continues from the newest checkpoint.

    `on_begin` is called when the stage has found its models and data in order, and is about to use them.
    """
    folder = workshop.folder
    student = workshop.recognizer(settings.start, seed)
    with ExitStack() as open_until_done:

        def built() -> tuple[Stage, BatchStream]:
            stage = open_until_done.enter_context(closing(build_stage(workshop, student, settings, seed)))
            return stage, build_stream(workshop, stage, name, seed, rank=processes.rank(), among=processes.count())

        stage, stream = processes.agreed(built)
        on_begin()
        dev = workshop.set(settings.dev) if settings.dev is not None and not isinstance(stage, CtcStage) else None
        if isinstance(settings, OpdStageSettings):
            processes.decided(lambda: calibrate_once(workshop, stage, name, seed, progress))
        with progress.stage(f"{name} (seed {seed})", settings.optimization.steps) as on_step:
            train(
                stage,
                stream,
                settings.optimization,
                folder.stage(name, seed),
                seed=seed_of_order(workshop.recipe, name, seed),
                continues=continuation_of(workshop, name, seed),
                schedule_steps=schedule_steps(workshop.recipe, name),
                evaluate=(lambda: development_error_rate(workshop, student, dev)) if dev else None,
                on_step=on_step,
                on_trouble=lambda message: progress.say(f"{name}: {message}"),
            )
    weights = gathered_weights(student.model)
    if processes.is_first():
        folder.save_model(student, name, seed, weights)


def calibrate_once(workshop: Workshop, stage: Stage, name: str, seed: int, progress: Progress) -> None:
    """Measure what an OPD stage starts from, unless an earlier sitting has done so."""
    path = workshop.folder.stage(name, seed) / "calibration.json"
    if path.exists():
        return
    calibration = run_calibration(workshop, stage, name, seed)
    write_json(path, calibration.support_row() | {"warnings": calibration.warnings})
    for warning in calibration.warnings:
        progress.say(f"{name}: doubtful: {warning}")


def run_calibration(workshop: Workshop, stage: Stage, name: str, seed: int) -> Calibration:
    """Measure the support of a stage that has not been trained yet, on batches of its own training set."""
    settings = workshop.recipe.stages[name]
    assert isinstance(settings, OpdStageSettings)
    # In steps of one batch a streamed dataset is one lane, and not one for each batch of a step that is never made.
    stream = build_stream(workshop, stage, name, seed, rank=0, among=1, accumulation=1)
    with computing_in(stage, settings.optimization):
        return calibrate(stage, iter(stream), settings.calibration_batches)


def continuation_of(workshop: Workshop, name: str, seed: int) -> Continuation | None:
    """What a stage goes on from; None where it begins anew."""
    recipe = workshop.recipe
    settings, ended = recipe.stages[name], recipe.stages.get(recipe.stages[name].start)
    assert isinstance(settings, TrainingStageSettings)
    if not settings.continues:
        return None
    assert isinstance(ended, TrainingStageSettings)
    return Continuation(
        folder=workshop.folder.stage(settings.start, workshop.seed_of(settings.start, seed)),
        steps=ended.optimization.steps,
        steps_before=steps_before(recipe, name),
        same_set=settings.train == ended.train,
    )


def run_label_stage(
    workshop: Workshop,
    name: str,
    seed: int,
    settings: LabelStageSettings,
    progress: Progress,
    on_begin: Callable[[], None],
) -> None:
    """Let the teacher label a set; writes what was dropped, the counts, and last the labels.

    `on_begin` is called when the teacher is loaded and nothing is written yet.
    """
    folder = workshop.folder.stage(name, seed)
    utterances = workshop.set(settings.audio)
    parts = Parts(folder / "parts", utterances)
    missing = parts.missing()
    # The accelerator is vLLM's, where vLLM writes.
    device = workshop.device if settings.decoding.engine == "own" else torch.device("cpu")
    teacher = processes.agreed(lambda: workshop.recognizer(settings.start, seed, device) if missing else None)
    on_begin()
    if teacher is not None:
        recognition = RecognitionSettings(settings.batch_seconds, settings.max_new_tokens)
        with (
            engine_while_needed(teacher, settings.decoding, settings.max_new_tokens) as engine,
            progress.count(f"{name} (seed {seed})", sum(map(len, missing))) as advance,
        ):

            def labelled(some: Sequence[Utterance]) -> list[Row]:
                labels = label(
                    teacher,
                    some,
                    recognition,
                    engine=engine,
                    drop_failures=settings.drop_failures,
                    memory=workshop.memory,
                    on_batch=advance,
                )
                return [{"kept": row} for row in labels.rows] + [{"dropped": row} for row in labels.dropped]

            for part in missing:
                parts.do(part, labelled)
    processes.wait()
    processes.decided(lambda: write_labels(parts, folder, workshop.folder.labels(name, seed), f"stages.{name}"))


def write_labels(parts: Parts, folder: Path, labels: Path, stage: str) -> None:
    """Write what was dropped, the counts and last the labels, all of which are in parts.

    Raises:
        InputError: there is no label, or a part is not there.
    """
    reasons = Counter("kept" if "kept" in row else row["dropped"]["dropped"] for row in parts.rows())
    kept = reasons.pop("kept", 0)
    write_manifest(folder / "dropped.jsonl", (row["dropped"] for row in parts.rows() if "dropped" in row))
    write_json(folder / "counts.json", {"kept": kept, **dict(sorted(reasons.items()))})
    if not kept:
        raise InputError(
            f"{stage}: every one of the {len(parts.utterances)} labels was dropped; "
            f"{folder / 'dropped.jsonl'} says why; train the teacher further"
        )
    write_manifest(labels, (row["kept"] for row in parts.rows() if "kept" in row))
    parts.remove()


def build_stage(workshop: Workshop, student: Recognizer, settings: TrainingStageSettings, seed: int) -> Stage:
    """The stage object of a training stage."""
    if isinstance(settings, CtcStageSettings):
        return CtcStage(student, settings.augmentation)
    if isinstance(settings, SftStageSettings):
        return SupervisedStage(student, settings.augmentation)
    assert isinstance(settings, OpdStageSettings)
    drafts = drafts_of(workshop, settings, seed)
    with ExitStack() as on_failure:
        teacher = teacher_of(workshop, settings, seed)
        on_failure.callback(teacher.close)
        engine = engine_for(
            student,
            settings.objective.rollouts,
            settings.objective.max_new_tokens,
            dtype=COMPUTED_IN[settings.optimization.mixed_precision],
        )
        if engine is not None:
            on_failure.callback(engine.close)
        stage = DistillationStage(student, teacher, settings.objective, drafts, engine, settings.augmentation)
        on_failure.pop_all()
    return stage


def drafts_of(workshop: Workshop, settings: OpdStageSettings, seed: int) -> Mapping[str, str]:
    """Texts to try first, by utterance.

    Raises:
        InputError: not one of them is of an utterance that the stage hears, as far as these are known beforehand.
    """
    if settings.drafts is None:
        return {}
    texts = workshop.heard(settings.drafts, seed).texts()
    known = settings.train not in workshop.recipe.sets or workshop.recipe.sets[settings.train].dataset is None
    if known and not any(utterance.id in texts for utterance in workshop.heard(settings.train, seed)):
        raise InputError(
            f"drafts: {settings.drafts!r} has no text for any utterance of {settings.train!r}; name a set or label "
            "stage with the same ids, or leave `drafts` out"
        )
    return texts


def build_stream(
    workshop: Workshop,
    stage: Stage,
    name: str,
    seed: int,
    *,
    rank: int,
    among: int,
    accumulation: int | None = None,
) -> BatchStream:
    """The batches that a training stage hears in one process among several.

    Args:
        workshop: of the run.
        stage: hears them.
        name: of the stage in the recipe.
        seed: of the run.
        rank: this process.
        among: how many there are.
        accumulation: batches in a step; None = as the recipe says.
    """
    settings = workshop.recipe.stages[name]
    assert isinstance(settings, TrainingStageSettings)
    per_step = accumulation or settings.optimization.accumulation
    order = seed_of_order(workshop.recipe, name, seed)
    dataset_set = workshop.recipe.sets.get(settings.train)
    if dataset_set is not None and dataset_set.dataset is not None:
        return build_dataset_stream(f"set {settings.train}", dataset_set, stage, settings, per_step, order, rank, among)
    utterances, durations, unmeasured = workshop.heard(settings.train, seed).measured()
    if not len(utterances):
        raise InputError(f"set {settings.train}: none of its utterances can be heard; the first: {unmeasured[0][1]}")
    check_heard(f"set {settings.train}", utterances, durations, stage, settings)
    listeners = {recognizer.listener: recognizer.features for recognizer in stage.recognizers}
    workers = settings.optimization.data_workers
    # What does not fit into one pool is not heard again before its features would have to make room.
    memory = workshop.memory if workers == 0 and len(utterances) <= POOL else None
    dataset = ExampleDataset(utterances, listeners, memory)
    sampler = batch_sampler(utterances, durations, stage.student, settings.optimization, order)
    return BatchStream(
        dataset,
        sampler,
        per_step=per_step,
        rank=rank,
        processes=among,
        workers=workers,
        unheard=[Unheard(*item) for item in unmeasured],
    )


def batch_sampler(
    utterances: Utterances,
    durations: Sequence[float],
    student: Recognizer,
    settings: OptimizationSettings,
    seed: int,
) -> DurationBatchSampler:
    """Duration-bucketed batches within the budget of a stage."""
    text_tokens = None
    if settings.batch_tokens is not None:
        text_tokens = utterances.values(lambda some: student.transcript_lengths([item.text or "" for item in some]))
    return DurationBatchSampler(
        durations,
        max_audio_seconds=settings.batch_seconds,
        text_tokens=text_tokens,
        max_text_tokens=settings.batch_tokens,
        max_utterances=settings.batch_utterances,
        shuffle=True,
        seed=seed,
    )
