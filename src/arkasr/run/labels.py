"""A label stage: the teacher transcribes a set. Finished parts survive a kill."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from arkasr import processes
from arkasr.data.manifests.manifest import Utterance, write_manifest
from arkasr.errors import InputError
from arkasr.progress import Progress
from arkasr.recipe.settings import LabelStageSettings
from arkasr.recognizers.inference import RecognitionSettings
from arkasr.run.context import RunContext
from arkasr.run.engines import open_engine
from arkasr.run.folder import write_json
from arkasr.run.resumable_work import ResumableWork, Row
from arkasr.teacher.label import label


def run_label_stage(
    context: RunContext,
    name: str,
    seed: int,
    settings: LabelStageSettings,
    progress: Progress,
    on_begin: Callable[[], None],
) -> None:
    """Label a set with the teacher. Writes the dropped rows, the counts, and the labels last.

    `on_begin` is called after the teacher is loaded and before anything is written.
    """
    folder = context.folder.stage(name, seed)
    utterances = context.set(settings.audio)
    work = ResumableWork(folder / "parts", utterances)
    missing = work.missing()
    # vLLM needs the accelerator's memory for itself.
    device = context.device if settings.decoding.engine == "own" else torch.device("cpu")
    teacher = processes.raise_if_any_fails(
        lambda: context.recognizer(settings.start, seed, device) if missing else None
    )
    on_begin()
    if teacher is not None:
        recognition = RecognitionSettings(settings.batch_seconds, settings.max_new_tokens)
        with (
            open_engine(teacher, settings.decoding, settings.max_new_tokens) as engine,
            progress.count(f"{name} (seed {seed})", sum(map(len, missing))) as advance,
        ):

            def label_part(part: Sequence[Utterance]) -> list[Row]:
                labels = label(
                    teacher,
                    part,
                    recognition,
                    engine=engine,
                    drop_failures=settings.drop_failures,
                    feature_cache=context.feature_cache,
                    on_batch=advance,
                )
                return [{"kept": row} for row in labels.rows] + [{"dropped": row} for row in labels.dropped]

            for part in missing:
                work.do(part, label_part)
    processes.barrier()
    processes.broadcast_from_first(
        lambda: write_labels(work, folder, context.folder.labels(name, seed), f"stages.{name}")
    )


def write_labels(work: ResumableWork, folder: Path, labels: Path, stage: str) -> None:
    """Write dropped rows and counts, and the labels last, from the finished parts.

    Raises:
        InputError: every label was dropped, or a part is missing.
    """
    reasons = Counter("kept" if "kept" in row else row["dropped"]["dropped"] for row in work.rows())
    kept = reasons.pop("kept", 0)
    write_manifest(folder / "dropped.jsonl", (row["dropped"] for row in work.rows() if "dropped" in row))
    write_json(folder / "counts.json", {"kept": kept, **dict(sorted(reasons.items()))})
    if not kept:
        raise InputError(
            f"{stage}: all {len(work.utterances)} labels were dropped; "
            f"{folder / 'dropped.jsonl'} gives the reasons; train the teacher further"
        )
    write_manifest(labels, (row["kept"] for row in work.rows() if "kept" in row))
    work.remove()
