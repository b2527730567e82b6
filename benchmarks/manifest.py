"""Time and memory of opening manifests of up to ten million lines and of reading batches from them.

    python -m benchmarks.manifest --lines 1000000 10000000
    python -m benchmarks.manifest --lines 10000000 --folder /somewhere/with/space

Prints the time until the manifest is open and until the first batch, and resident memory. Each row is measured in a
fresh process that does what a recipe does for a training stage: checks, fingerprint, and features of a published
student. The manifests are written into a temporary folder (about 300 bytes a line; all lines share a few files).
"""

import argparse
import itertools
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
import torch
from benchmarks.child_processes import output_of
from benchmarks.memory import resident_bytes
from benchmarks.random_models import STUDENT_OF_PUBLISHED_FEATURES, base_vocabulary
from rich.console import Console
from rich.table import Table

from arkasr.data.audio import SAMPLE_RATE
from arkasr.data.batches import DataPosition
from arkasr.data.manifests.indexing import build_index
from arkasr.files import write_atomically
from arkasr.recipe.settings import Recipe
from arkasr.recognizers.ark_asr import build_ark_asr
from arkasr.run.batches import build_stream
from arkasr.run.context import RunContext
from arkasr.run.folder import RunFolder
from arkasr.train.stages.sft import SupervisedStage

FILES = 16
BATCH_SECONDS = 16.0
BATCHES = 1_000
POOLS = (2, 20)  # their batches are formed but not read, because reading takes hours
TEXT = "and what is said here is some forty words long as in the corpora that such manifests are made of " * 2
MIB = 2**20
# Keys of a recipe's set, and the position at which its stream starts.
CASES: dict[str, tuple[dict[str, Any], DataPosition]] = {
    "from the start": ({}, DataPosition()),
    "resumed in the middle": ({}, DataPosition(epoch=3, batch=1_000, pool=4)),
    "one language of two": ({"language": "de"}, DataPosition()),
    "shuffled": ({"shuffle": 1}, DataPosition()),
}


def write_lines(lines: int, folder: Path) -> Path:
    generator = np.random.default_rng(0)
    lengths = np.linspace(0.5, 2.0, FILES).round(2).tolist()
    for number, seconds in enumerate(lengths):
        noise = generator.normal(size=int(seconds * SAMPLE_RATE)) * 0.1
        soundfile.write(folder / f"{number}.flac", noise, SAMPLE_RATE)

    def rows() -> Iterator[str]:
        for number in range(lines):
            file = (number * 7919) % FILES
            yield (
                f'{{"id": "corpus-{number:010d}", "audio": "{file}.flac", "duration": {lengths[file]}, '
                f'"language": "{("en", "de")[number % 2]}", "speaker": "{number % 5000:05d}", "text": "{TEXT}"}}\n'
            )

    path = folder / "train.jsonl"
    write_atomically(path, rows())
    return path


def measure_index(path: Path) -> dict[str, float]:
    before = resident_bytes("VmRSS")
    started = time.perf_counter()
    build_index(path)
    return {"seconds": time.perf_counter() - started, "before": before, "peak": resident_bytes("VmHWM")}


def measure_stream(path: Path, case: str, workers: int) -> dict[str, float]:
    """Seconds and resident bytes of a stage's stream on the manifest."""
    keys, position = CASES[case]
    student = build_ark_asr(STUDENT_OF_PUBLISHED_FEATURES, base_vocabulary(0))
    optimization = {"steps": 1, "learning_rate": 1.0e-3, "batch_seconds": BATCH_SECONDS, "data_workers": workers}
    recipe = Recipe.model_validate(
        {
            "name": "manifest",
            "corpus": {"folder": str(path.parent)},
            "sets": {"D": {"manifest": path.name, **keys}},
            "models": {"student": {"pretrained": "given-by-hand"}},
            "stages": {"sft": {"kind": "sft", "start": "student", "train": "D", "optimization": optimization}},
        }
    )
    context = RunContext(recipe, RunFolder(path.parent / "run", 0), torch.device("cpu"))
    found = {"before": resident_bytes("VmRSS")}
    started = time.perf_counter()
    context.set("D")
    found["open"] = time.perf_counter() - started
    stream = build_stream(context, SupervisedStage(student, None), "sft", 0, rank=0, world_size=1)
    assert stream.fingerprint  # computed here, as `train` does to compare it between processes
    stream.position = position
    batches = iter(stream)
    next(batches)
    found |= {"first batch": time.perf_counter() - started, "first batch, bytes": resident_bytes("VmRSS")}
    for _ in itertools.islice(batches, BATCHES):
        pass
    found["batches"] = resident_bytes("VmRSS")
    pools = itertools.groupby(stream.sampler.batches_from(position), lambda batch: (batch[1].epoch, batch[1].pool))
    for number, (_, pool) in enumerate(itertools.islice(pools, max(POOLS)), start=1):
        for _ in pool:
            pass
        if number in POOLS:
            found[f"{number} pools"] = resident_bytes("VmRSS")
    return found | {"peak": resident_bytes("VmHWM")}


def measure_in_fresh_process(*arguments: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.manifest", *arguments]
    return json.loads(output_of(command))


def measure(lines: int, parent: Path | None, workers: int) -> None:
    console = Console(width=140)
    with TemporaryDirectory(dir=parent) as name:
        path = write_lines(lines, Path(name))
        size = path.stat().st_size
        built = measure_in_fresh_process("--index", str(path))
        console.print(
            f"{lines:,} lines, {size / 2**30:.2f} GiB; index built in {built['seconds']:.0f} s, "
            f"{lines / built['seconds']:,.0f} lines/s, peak {built['peak'] / MIB:.0f} MiB "
            f"({(built['peak'] - built['before']) / MIB:.0f} above an idle process); its size is "
            f"{sum(file.stat().st_size for file in Path(f'{path}.index').iterdir()) / MIB:.0f} MiB",
            highlight=False,
        )
        memory = {"before": "before", "first batch": "first batch, bytes", f"{BATCHES} batches": "batches"}
        memory |= {f"{number} pools": f"{number} pools" for number in POOLS} | {"peak": "peak"}
        table = Table("", "open, s", "first batch, s", *memory, title="resident memory in MiB", title_justify="right")
        for case in CASES:
            row = measure_in_fresh_process("--read", str(path), "--case", case, "--workers", str(workers))
            figures = [f"{row[key] / MIB:.0f}" for key in memory.values()]
            table.add_row(case, f"{row['open']:.2f}", f"{row['first batch']:.2f}", *figures)
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, nargs="+", default=[1_000_000, 10_000_000], help="sizes of manifests")
    parser.add_argument("--folder", type=Path, help="where to write; default: the system's temporary folder")
    parser.add_argument("--workers", type=int, default=0, help="data workers")
    parser.add_argument("--index", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.index:
        print(json.dumps(measure_index(options.index)))
    elif options.read:
        print(json.dumps(measure_stream(options.read, options.case, options.workers)))
    else:
        with TemporaryDirectory(dir=options.folder) as folder:
            free = shutil.disk_usage(folder).free
        if free < 500 * max(options.lines):
            parser.error(f"--folder: {max(options.lines):,} lines need {max(options.lines) / 2e6:.1f} GB of disk")
        for lines in options.lines:
            measure(lines, options.folder, options.workers)


if __name__ == "__main__":
    main()
