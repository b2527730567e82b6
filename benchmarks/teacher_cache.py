"""Time of an OPD step with the teacher's answers on disk, as a share of a step without a cache.

    python -m benchmarks.teacher_cache
    python -m benchmarks.teacher_cache --utterances 6 --seconds 10 --tokens 40

Prints medians of steps that alternate in one process, with their range: of the whole step, and of the teacher's part.
An empty cache is that of the first epoch, a full cache that of later epochs. With `teacher_cache: states`, a share of
the rollouts (`--changed`) differs from the last epoch, and their states are computed again.

The steps are those of the training loop, on random weights and noise; no data is needed.
"""

import argparse
import itertools
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate import Accelerator
from benchmarks.opd_step import NEGLIGIBLE_LEARNING_RATE, build_models, options_parser
from benchmarks.random_models import noise_examples
from benchmarks.timing import median_and_range, ratios, timed
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from arkasr.recognizers.recognizer import Recognizer
from arkasr.teacher.in_process import InProcessTeacher
from arkasr.teacher.teacher_cache import TeacherCache
from arkasr.train.optimizer import build_optimizers
from arkasr.train.settings import ObjectiveSettings, OptimizationSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.step import optimizer_step

LIMIT_BYTES = 2**33
# Of the step and of the teacher's part, for each variant by name.
Seconds = dict[str, list[tuple[float, float]]]


@dataclass(frozen=True)
class Variant:
    """A teacher with or without a cache.

    Attributes:
        name: in the printed table.
        teacher: scores the rollouts.
        folder: of its cache.
        before_step: prepares the cache.
    """

    name: str
    teacher: InProcessTeacher
    folder: Path
    before_step: Callable[[Path], object]


def variants(teacher: Recognizer, root: Path, changed: float) -> list[Variant]:
    """No cache first."""
    generator = random.Random(0)

    def cached(name: str, before_step: Callable[[Path], object], *, keeps_states: bool) -> Variant:
        folder = root / name
        cache = TeacherCache(teacher, folder, LIMIT_BYTES, keeps_states=keeps_states)
        return Variant(name, InProcessTeacher(teacher, cache=cache), folder, before_step)

    wipe = partial(shutil.rmtree, ignore_errors=True)
    return [
        Variant("no cache", InProcessTeacher(teacher), root, lambda folder: None),
        cached("audio, empty", wipe, keeps_states=False),
        cached("audio, full", lambda folder: None, keeps_states=False),
        cached("states, empty", wipe, keeps_states=True),
        cached(f"states, {changed:.0%} changed", partial(forget_states, changed, generator), keeps_states=True),
        cached("states, full", lambda folder: None, keeps_states=True),
    ]


def forget_states(share: float, generator: random.Random, folder: Path) -> None:
    """Remove the states of a share of the utterances; their embeddings stay."""
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, "pt") as file:
            has_states = "transcript" in file.keys()  # noqa: SIM118 (no mapping)
        if has_states and generator.random() < share:
            path.unlink()


def measure(options: argparse.Namespace, root: Path) -> Seconds:
    """Seconds of the step and of the teacher's part of it, by variant; the first step of each is not counted."""
    student, teacher = build_models(options)
    examples = [
        replace(example, utterance=replace(example.utterance, text=None))
        for example in noise_examples([student, teacher], options)
    ]
    settings = OptimizationSettings(
        steps=10**9, batch_seconds=1e9, learning_rate=NEGLIGIBLE_LEARNING_RATE, mixed_precision=options.precision
    )
    objective = ObjectiveSettings(top_k=options.top_k, max_new_tokens=options.tokens)
    compared = variants(teacher, root, options.changed)
    stages = [DistillationStage(student, variant.teacher, objective) for variant in compared]
    accelerator = Accelerator(mixed_precision=options.precision, cpu=options.device == "cpu")
    first, *optimizers = accelerator.prepare(stages[0], *build_optimizers(stages[0], settings))
    modules = [first, *map(accelerator.prepare, stages[1:])]
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["highest_lr"] = NEGLIGIBLE_LEARNING_RATE
    times: Seconds = {variant.name: [] for variant in compared}
    for repeat in range(options.repeats + 1):
        for variant, stage, module in zip(compared, stages, modules, strict=True):
            variant.before_step(variant.folder)
            step = (accelerator, stage, module, optimizers, itertools.repeat(examples), settings, repeat + 1, 0, 1.0)
            outcome, seconds = timed(partial(optimizer_step, *step), options.device)
            if repeat:
                times[variant.name].append((seconds, outcome.metrics.values()["time/teacher"]))
    return times


def print_ratios(times: Seconds, sizes: dict[str, int], options: argparse.Namespace) -> None:
    title = (
        f"time / time without a cache: {options.utterances} utterances of {options.seconds} s, "
        f"{options.tokens} tokens; {options.student}, {options.teacher}; {torch.get_num_threads()} threads, "
        f"{options.device}"
    )
    table = Table("cache", "step", "teacher", "teacher, share of the step", "MiB on disk", title=title)
    (steps, teachers), *_ = (zip(*rows, strict=True) for rows in times.values())
    for name, rows in times.items():
        own_steps, own_teachers = zip(*rows, strict=True)
        cells = (ratios(own_steps, steps), ratios(own_teachers, teachers), ratios(own_teachers, own_steps))
        table.add_row(name, *map(median_and_range, cells), f"{sizes.get(name, 0) / 2**20:.1f}")
    Console(width=140).print(table)


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--changed", type=float, default=0.12, help="share of the rollouts that are new")
    options = parser.parse_args()
    with TemporaryDirectory() as root:
        times = measure(options, Path(root))
        sizes = {
            folder.name: sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
            for folder in Path(root).iterdir()
        }
    print_ratios(times, sizes, options)


if __name__ == "__main__":
    main()
