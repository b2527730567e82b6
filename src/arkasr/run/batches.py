"""The batches of a training stage, from a manifest or from a streamed dataset."""

from collections.abc import Sequence

from arkasr import processes
from arkasr.data.batches import POOL, DurationBatchSampler
from arkasr.data.degradation.degradation import Degradation
from arkasr.data.examples import IdentityLookup
from arkasr.data.manifests.manifest import Utterance
from arkasr.data.manifests.utterances import Utterances
from arkasr.data.streams.streamed import StreamedBatches
from arkasr.errors import InputError
from arkasr.recipe.settings import SetSettings, TrainingStageSettings
from arkasr.recipe.settings.continuation import seed_of_order
from arkasr.recognizers.recognizer import Recognizer
from arkasr.run.checks import check_training_set, utterance_check
from arkasr.run.context import RunContext
from arkasr.run.hearing import degradation_of, examples_of
from arkasr.train.stage import Stage
from arkasr.train.stream import BatchStream, UnreadableUtterance


def build_stream(
    context: RunContext,
    stage: Stage,
    name: str,
    seed: int,
    *,
    rank: int,
    world_size: int,
    accumulation: int | None = None,
) -> BatchStream:
    """The batches of a training stage for one rank.

    Args:
        context: the run.
        stage: the stage that trains on the batches.
        name: the stage's name in the recipe.
        seed: the run's seed.
        rank: rank of the process.
        world_size: number of processes.
        accumulation: number of batches in a step, over all ranks; None = the recipe's number.

    Raises:
        InputError: no utterance of the set can be read, one does not fit the stage, or the recordings for the
            background cannot be read.
    """
    settings = context.recipe.stages[name]
    assert isinstance(settings, TrainingStageSettings)
    batches_per_step = accumulation or settings.optimization.accumulation
    order = seed_of_order(context.recipe, name, seed)
    train_set = context.recipe.sets.get(settings.train)
    if train_set is not None and train_set.dataset is not None:
        degradation = degradation_of(context, stage, settings, order, training=None)
        return build_dataset_stream(
            f"set {settings.train}", train_set, stage, settings, degradation, batches_per_step, order, rank, world_size
        )
    utterances, durations, unmeasured = context.training_utterances(settings.train, seed).measured()
    if not len(utterances):
        raise InputError(f"set {settings.train}: none of its utterances can be read; the first: {unmeasured[0][1]}")
    check_training_set(f"set {settings.train}", utterances, durations, stage, settings)
    degradation = degradation_of(context, stage, settings, order, training=(utterances, durations))
    workers = settings.optimization.data_workers
    # A larger set would fill the cache with features that are not used again soon.
    feature_cache = context.feature_cache if workers == 0 and len(utterances) <= POOL else None
    sampler = batch_sampler(utterances, durations, stage.student, settings, order)
    return BatchStream(
        examples_of(stage, utterances, degradation, feature_cache),
        sampler,
        batches_per_step=batches_per_step,
        rank=rank,
        world_size=world_size,
        workers=workers,
        unreadable=[UnreadableUtterance(*item) for item in unmeasured],
    )


def build_dataset_stream(
    name: str,
    set_settings: SetSettings,
    stage: Stage,
    settings: TrainingStageSettings,
    degradation: Degradation | None,
    batches_per_step: int,
    seed: int,
    rank: int,
    world_size: int,
) -> BatchStream:
    """The batches of a streamed dataset for one rank. A step has `batches_per_step` batches over all ranks.

    Raises:
        InputError: the dataset cannot be read.
    """
    assert set_settings.dataset is not None
    optimization = settings.optimization

    def text_tokens(utterances: Sequence[Utterance]) -> list[int]:
        return stage.student.transcript_lengths([item.text or "" for item in utterances])

    batches = StreamedBatches(
        set_settings.dataset,
        batches_per_step=batches_per_step,
        rank=rank,
        processes=world_size,
        check_utterance=utterance_check(name, stage, settings),
        batching={
            "max_audio_seconds": optimization.batch_seconds,
            "window_seconds": stage.student.window_seconds,
            "lengthening": settings.lengthening,
            "text_tokens": text_tokens if optimization.batch_tokens is not None else None,
            "max_text_tokens": optimization.batch_tokens,
            "max_utterances": optimization.batch_utterances,
        },
        all_gather=processes.all_gather,
        max_seconds=set_settings.max_seconds,
        labels_withheld=set_settings.labels == "withheld",
        seed=seed,
        # Each worker holds two batches.
        read_ahead=2 * optimization.data_workers + 1,
    )
    return BatchStream(
        examples_of(stage, IdentityLookup(batches.examples), degradation),
        batches,
        batches_per_step=batches_per_step,
        rank=rank,
        world_size=world_size,
        workers=optimization.data_workers,
    )


def batch_sampler(
    utterances: Utterances,
    durations: Sequence[float],
    student: Recognizer,
    settings: TrainingStageSettings,
    seed: int,
) -> DurationBatchSampler:
    """Duration-bucketed batches within the budget of a stage."""
    optimization, text_tokens = settings.optimization, None
    if optimization.batch_tokens is not None:
        text_tokens = utterances.values(lambda items: student.transcript_lengths([item.text or "" for item in items]))
    return DurationBatchSampler(
        durations,
        max_audio_seconds=optimization.batch_seconds,
        window_seconds=student.window_seconds,
        lengthening=settings.lengthening,
        text_tokens=text_tokens,
        max_text_tokens=optimization.batch_tokens,
        max_utterances=optimization.batch_utterances,
        shuffle=True,
        seed=seed,
    )
