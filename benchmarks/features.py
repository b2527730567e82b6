"""Audio into features: how much a second, with and without workers, so that a trainer does not wait for its data.

    python -m benchmarks.features
    python -m benchmarks.features --workers 0 8 16 --seconds 10

The stream of an OPD stage from FLAC files, or members of a tar, to the features of the published student and of its
teacher, which are computed one after the other from one decoded waveform. Divide what a trainer hears a second, from
its own `time/…` metrics or `benchmarks/opd_step.py`, by the figure for one core: so many cores a device must have.
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
from benchmarks.timing import spread
from rich.console import Console
from rich.table import Table

from arkasr.data.audio import SAMPLE_RATE
from arkasr.data.batches import DurationBatchSampler
from arkasr.data.examples import ExampleDataset
from arkasr.data.manifests.manifest import Utterance, read_manifest, write_manifest
from arkasr.data.manifests.shards import find_shards, rows_of_shards
from arkasr.model.processor import INSTRUCTION
from arkasr.recognizers.ark_asr import ARK_ASR_PRESETS, build_ark_asr
from arkasr.recognizers.qwen3_asr import PROMPT_WORDS, QWEN3_ASR_PRESETS, build_qwen3_asr
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.tokenizer import train_base_vocabulary
from arkasr.train.stream import BatchStream

UTTERANCES = 64
BATCH_SECONDS = 80.0


def frontends() -> list[Recognizer]:
    """Recognisers of the smallest size that hear as the published ones do."""
    vocabulary = train_base_vocabulary(["a few words"], 330, [INSTRUCTION, *PROMPT_WORDS])
    student, teacher = ARK_ASR_PRESETS["ark-asr-tiny"], QWEN3_ASR_PRESETS["qwen3-asr-tiny"]
    mels = {"num_mel_bins": ARK_ASR_PRESETS["ark-asr-0.6b"]["whisper_config"]["num_mel_bins"]}
    student = student | {"whisper_config": student["whisper_config"] | mels}
    teacher = teacher | {"audio_config": teacher["audio_config"] | mels}
    return [build_ark_asr(student, vocabulary), build_qwen3_asr(teacher, vocabulary)]


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
    seconds = [item.duration or 0.0 for item in utterances]
    sampler = DurationBatchSampler(seconds, max_audio_seconds=BATCH_SECONDS)
    stream = iter(BatchStream(ExampleDataset(utterances, functions), sampler, workers=workers))
    # Workers have started, and what they have read ahead by then is used up.
    list(itertools.islice(stream, 2 * workers + 1))
    started = time.perf_counter()
    heard = sum(item.utterance.duration for batch in itertools.islice(stream, batches) for item in batch)
    return heard / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=10.0, help="longest utterance")
    parser.add_argument("--batches", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    student, teacher = frontends()
    heard_by = {"student": [student], "student and teacher": [student, teacher]}
    with TemporaryDirectory() as folder:
        audio = write_audio(Path(folder), options.seconds)
        table = Table("workers", "audio", *heard_by, title=f"audio seconds a second, {os.cpu_count()} cores")
        for workers, (name, utterances) in itertools.product(options.workers, audio.items()):
            found = {
                column: [
                    audio_seconds_a_second(utterances, recognizers, workers, options.batches)
                    for _ in range(options.repeats)
                ]
                for column, recognizers in heard_by.items()
            }
            table.add_row(str(workers), name, *(spread(values, 0) for values in found.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
