"""Seconds of audio that are turned into features in a second, by number of data workers.

    python -m benchmarks.features
    python -m benchmarks.features --workers 0 8 16 --seconds 10

Prints the speed of an OPD stage's stream, from FLAC files or members of a tar to the features of the published student
alone, and of student and teacher. Audio is noise; no data is needed.

How many cores a device needs: divide the seconds of audio that a trainer uses in a second (`time/…` in its metrics, or
`benchmarks.opd_step`) by the figure for 0 workers, which use one core.
"""

import argparse
import io
import itertools
import os
import tarfile
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
import torch
from benchmarks.random_models import (
    STUDENT_OF_PUBLISHED_FEATURES,
    TEACHER_OF_PUBLISHED_FEATURES,
    base_vocabulary,
)
from benchmarks.timing import median_and_range
from rich.console import Console
from rich.table import Table

from arkasr.data.audio import SAMPLE_RATE
from arkasr.data.batches import DurationBatchSampler
from arkasr.data.examples import ExampleDataset
from arkasr.data.manifests.manifest import Utterance, read_manifest, write_manifest
from arkasr.data.manifests.shards import find_shards, rows_of_shards
from arkasr.recognizers.ark_asr import build_ark_asr
from arkasr.recognizers.qwen3_asr import build_qwen3_asr
from arkasr.recognizers.recognizer import Recognizer
from arkasr.train.stream import BatchStream

UTTERANCES = 64
BATCH_SECONDS = 80.0


def write_audio(folder: Path, seconds: float) -> dict[str, list[Utterance]]:
    """The same noise as files and as members of a tar."""
    generator = np.random.default_rng(0)
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for number in range(UTTERANCES):
            noise = generator.normal(size=int(seconds * generator.uniform(0.8, 1.0) * SAMPLE_RATE)) * 0.1
            buffer = io.BytesIO()
            soundfile.write(buffer, noise, SAMPLE_RATE, format="FLAC")
            (folder / f"{number}.flac").write_bytes(buffer.getvalue())
            tar.add(folder / f"{number}.flac", f"{number}.flac")
    rows = list(rows_of_shards(find_shards([folder / "shard.tar"]), folder))
    write_manifest(folder / "tar.jsonl", rows)
    write_manifest(folder / "files.jsonl", (row | {"audio": f"{number}.flac"} for number, row in enumerate(rows)))
    return {name: read_manifest(folder / f"{name}.jsonl") for name in ("files", "tar")}


def audio_seconds_a_second(
    utterances: list[Utterance], recognizers: list[Recognizer], workers: int, batches: int
) -> float:
    functions = {recognizer.frontend: recognizer.features for recognizer in recognizers}
    durations = [item.duration or 0.0 for item in utterances]
    sampler = DurationBatchSampler(durations, max_audio_seconds=BATCH_SECONDS)
    stream = iter(BatchStream(ExampleDataset(utterances, functions), sampler, workers=workers))
    # Start the workers, and use up the batches that they have prefetched by then.
    list(itertools.islice(stream, 2 * workers + 1))
    started = time.perf_counter()
    audio = sum(item.utterance.duration for batch in itertools.islice(stream, batches) for item in batch)
    return audio / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="numbers of data workers")
    parser.add_argument("--seconds", type=float, default=10.0, help="longest utterance")
    parser.add_argument("--batches", type=int, default=24, help="timed batches")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    vocabulary = base_vocabulary(0)
    student = build_ark_asr(STUDENT_OF_PUBLISHED_FEATURES, vocabulary)
    teacher = build_qwen3_asr(TEACHER_OF_PUBLISHED_FEATURES, vocabulary)
    columns = {"student": [student], "student and teacher": [student, teacher]}
    with TemporaryDirectory() as folder:
        audio = write_audio(Path(folder), options.seconds)
        table = Table("workers", "audio", *columns, title=f"seconds of audio a second, {os.cpu_count()} cores")
        for workers, (name, utterances) in itertools.product(options.workers, audio.items()):
            cells = []
            for recognizers in columns.values():
                speeds = [
                    audio_seconds_a_second(utterances, recognizers, workers, options.batches)
                    for _ in range(options.repeats)
                ]
                cells.append(median_and_range(speeds, 0))
            table.add_row(str(workers), name, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
