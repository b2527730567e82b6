"""The batches of a stage that trains on a streamed dataset."""

from collections.abc import Sequence

from arkasr import processes
from arkasr.data.examples import AsGiven, ExampleDataset
from arkasr.data.manifests.manifest import Utterance
from arkasr.data.streams.streamed import StreamedBatches
from arkasr.recipe.settings import SetSettings, TrainingStageSettings
from arkasr.run.checks import check_of_each
from arkasr.train.stage import Stage
from arkasr.train.stream import BatchStream


def build_dataset_stream(
    name: str,
    chosen: SetSettings,
    stage: Stage,
    settings: TrainingStageSettings,
    per_step: int,
    seed: int,
    rank: int,
    among: int,
) -> BatchStream:
    """The batches that a stage hears of a dataset in one process among several, `per_step` of them a step.

    Raises:
        InputError: the dataset cannot be read.
    """
    assert chosen.dataset is not None
    optimization = settings.optimization

    def text_tokens(utterances: Sequence[Utterance]) -> list[int]:
        return stage.student.transcript_lengths([item.text or "" for item in utterances])

    batches = StreamedBatches(
        chosen.dataset,
        per_step=per_step,
        rank=rank,
        processes=among,
        check=check_of_each(name, stage, settings),
        batching={
            "max_audio_seconds": optimization.batch_seconds,
            "text_tokens": text_tokens if optimization.batch_tokens is not None else None,
            "max_text_tokens": optimization.batch_tokens,
            "max_utterances": optimization.batch_utterances,
        },
        exchange=processes.exchange,
        most_seconds=chosen.max_seconds,
        labels_withheld=chosen.labels == "withheld",
        seed=seed,
        # Each worker has two.
        read_ahead=2 * optimization.data_workers + 1,
    )
    listeners = {recognizer.listener: recognizer.features for recognizer in stage.recognizers}
    return BatchStream(
        ExampleDataset(AsGiven(batches.examples), listeners),
        batches,
        per_step=per_step,
        rank=rank,
        processes=among,
        workers=optimization.data_workers,
    )
