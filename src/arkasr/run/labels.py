"""A label stage: the teacher transcribes a set, in parts that a killed run keeps."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from arkasr import processes
from arkasr.data.manifests.manifest import Utterance, write_manifest
from arkasr.errors import InputError
from arkasr.progress import Progress
from arkasr.recipe.settings import (
    LabelStageSettings,
)
from arkasr.recognizers.inference import RecognitionSettings
from arkasr.run.context import RunContext
from arkasr.run.engines import engine_while_needed
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
    """Let the teacher label a set; writes what was dropped, the counts, and last the labels.

    `on_begin` is called when the teacher is loaded and nothing is written yet.
    """
    folder = context.folder.stage(name, seed)
    utterances = context.set(settings.audio)
    parts = ResumableWork(folder / "parts", utterances)
    missing = parts.missing()
    # The accelerator is vLLM's, where vLLM writes.
    device = context.device if settings.decoding.engine == "own" else torch.device("cpu")
    teacher = processes.raise_if_any_fails(
        lambda: context.recognizer(settings.start, seed, device) if missing else None
    )
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
                    memory=context.memory,
                    on_batch=advance,
                )
                return [{"kept": row} for row in labels.rows] + [{"dropped": row} for row in labels.dropped]

            for part in missing:
                parts.do(part, labelled)
    processes.barrier()
    processes.broadcast_from_first(
        lambda: write_labels(parts, folder, context.folder.labels(name, seed), f"stages.{name}")
    )


def write_labels(parts: ResumableWork, folder: Path, labels: Path, stage: str) -> None:
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
