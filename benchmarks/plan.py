"""Measures this CPU as a device for `arkasr plan`, then compares the plan's estimates with measured steps.

    python -m benchmarks.plan --output device.json
    arkasr plan recipes/smoke.yaml --gpus 1 --device device.json

Prints the device file and, for SFT and OPD steps of several sizes, estimated / measured time of each phase and memory.
Steps are those of the training loop, as in `benchmarks.opd_step`; memory is measured in one process for each kind of
step. The plan is given the lengths and the decoder passes. It estimates everything else.

With `--cpu-time` only the CPU time of this process counts, for a machine that is shared with other jobs. Use one thread
with it: OMP_NUM_THREADS=1.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator
from benchmarks.child_processes import output_of
from benchmarks.cpu_device import measure_cpu
from benchmarks.memory import peak_bytes, reset_peak_memory, resident_bytes
from benchmarks.opd_step import build_models, measure, parse_options
from benchmarks.random_models import QWEN_BASE_TOKENS, noise_examples
from benchmarks.timing import median_and_range

from arkasr.cost.assumptions import Assumptions
from arkasr.cost.device import Device
from arkasr.cost.estimate import Cluster, StageCost, training_cost
from arkasr.cost.sizes import Size, size_of, size_of_model
from arkasr.cost.work import Batch, Decoding
from arkasr.files import write_atomically
from arkasr.recipe.settings import ModelSettings, OpdStageSettings, SftStageSettings, TokenizerSettings
from arkasr.recognizers.ark_asr import ARK_ASR_PRESETS
from arkasr.train.optimizer import build_optimizers
from arkasr.train.settings import ObjectiveSettings, OptimizationSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from arkasr.train.step import optimizer_step

PASSES_AT_0_6B = 4.8  # measured with the 0.6B student, docs/performance.md
# The C library returns freed memory to the system at once, so that resident memory is memory in use.
RETURN_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
MIDDLE = ARK_ASR_PRESETS["ark-asr-0.6b"] | {
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "whisper_config": ARK_ASR_PRESETS["ark-asr-0.6b"]["whisper_config"]
    | {"d_model": 512, "encoder_layers": 8, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048},
}
STUDENTS = {"small": ARK_ASR_PRESETS["ark-asr-tiny"], "middle": MIDDLE}
NEVER_ENDING = {"steps": 10**9, "batch_seconds": 1e9, "learning_rate": 1e-12}

Ratios = dict[str, list[float]]


@dataclass(frozen=True)
class Point:
    """A student and a batch for which estimate and measurement are compared."""

    student: str
    utterances: int
    seconds: float
    tokens: int
    vocabulary: int

    def __str__(self) -> str:
        return (
            f"{self.student} student, {self.utterances} x {self.seconds:g} s, {self.tokens} tokens, "
            f"vocabulary {self.vocabulary:,}"
        )

    def options(self, repeats: int) -> argparse.Namespace:
        """As `benchmarks.opd_step` takes them."""
        options = parse_options([])
        for name in ("utterances", "seconds", "tokens", "vocabulary"):
            setattr(options, name, getattr(self, name))
        options.sizes, options.repeats = STUDENTS[self.student], repeats
        return options


POINTS = (
    Point("small", 24, 2.5, 16, 2_000),
    Point("small", 8, 10.0, 40, 20_000),
    Point("small", 8, 10.0, 40, 152_000),
    Point("middle", 4, 5.0, 20, 2_000),
    Point("middle", 2, 20.0, 80, 20_000),
)


def estimate(point: Point, student: Size, teacher: Size, passes: float, device: Device) -> dict[str, StageCost]:
    """The plan's cost of an SFT and an OPD step."""
    # The batch is given with its padding: clips have 90 to 100% of the longest one's length.
    assumptions = replace(Assumptions(), padding=0.0)
    batch = Batch(point.utterances, point.seconds, point.tokens)
    common = {"start": "x", "train": "x", "optimization": NEVER_ENDING}
    objective = {"max_new_tokens": point.tokens}
    stages = {
        "sft": (SftStageSettings(kind="sft", **common), None),
        "opd": (OpdStageSettings(kind="opd", teacher="y", objective=objective, **common), teacher),
    }
    decoding = Decoding(passes, drafted=True)
    return {
        name: training_cost(name, stage, student, scorer, Cluster(device, 1), batch, decoding, assumptions)
        for name, (stage, scorer) in stages.items()
    }


def print_estimate_at_0_6b(device: Device) -> None:
    """In units of the SFT step, to compare with "A whole step" in docs/performance.md."""
    student = size_of_model("student", ModelSettings(pretrained="AutoArk-AI/ARK-ASR-0.6B"), None)
    tokens = TokenizerSettings(texts="x", vocab_size=QWEN_BASE_TOKENS)
    teacher = size_of_model("teacher", ModelSettings(preset="qwen3-asr-tiny"), tokens)
    point = Point("0.6B", 2, 6.0, 40, student.vocabulary)
    costs = estimate(point, student, teacher, PASSES_AT_0_6B, device)
    unit = sum(costs["sft"].phases.values())
    print(f"\n{point}, estimated, in units of the SFT step")
    for name, cost in costs.items():
        phases = {phase: seconds / unit for phase, seconds in cost.phases.items() if phase != "teacher"}
        shares = ", ".join(f"{phase} {share:.2f}" for phase, share in phases.items())
        print(f"{name}: {shares}; total {sum(phases.values()):.2f}")


def compare(number: int, repeats: int, device: Device, ratios: Ratios) -> None:
    """Print estimated / measured at one point, and add the ratios to `ratios`."""
    point = POINTS[number]
    options = point.options(repeats)
    student, teacher = (size_of(model) for model in build_models(options))
    found = measure(options)
    print(f"\n{point}; {found.passes:.1f} decoder passes")
    for name, cost in estimate(point, student, teacher, found.passes, device).items():
        measured = found.seconds[name]
        by_phase = {phase: seconds / measured[phase] for phase, seconds in cost.phases.items()}
        step = sum(cost.phases.values()) / (measured["step"] + measured["teacher"])
        command = [sys.executable, "-m", "benchmarks.plan", "--peak", str(number), name]
        peak = int(output_of(command, os.environ | RETURN_FREED_MEMORY).split()[-1])
        memory = (cost.peak - cost.memory["weights"] - cost.memory.get("teacher", 0.0)) / peak
        for key, ratio in (by_phase | {f"{name} step": step, f"{name} memory": memory}).items():
            ratios.setdefault(key, []).append(ratio)
        phases = ", ".join(f"{phase} {ratio:.2f}" for phase, ratio in by_phase.items())
        print(
            f"{name}: estimated / measured: {phases}; step {step:.2f} of {measured['step']:.2f} s without "
            f"teacher; memory besides the models {memory:.2f} of {peak / 2**20:.0f} MiB"
        )


def peak_of_steps(point: Point, kind: str) -> int:
    """Peak bytes of two steps, above the memory of the models.

    Steps of a smaller model run first, so that code and kernels are loaded.
    """
    peak_above_models(POINTS[0], kind)
    return peak_above_models(point, kind)


def peak_above_models(point: Point, kind: str) -> int:
    options = point.options(0)
    student, teacher = build_models(options)
    examples = noise_examples([student, teacher], options)
    settings = OptimizationSettings(**NEVER_ENDING)
    objective = ObjectiveSettings(max_new_tokens=point.tokens)
    stage = SupervisedStage(student, None) if kind == "sft" else DistillationStage(student, teacher, objective)
    accelerator = Accelerator(cpu=True)
    module, *optimizers = accelerator.prepare(stage, *build_optimizers(stage, settings))
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["highest_lr"] = group["lr"]
    before = resident_bytes("VmRSS")
    reset_peak_memory("cpu")
    for step in (1, 2):
        optimizer_step(accelerator, stage, module, optimizers, itertools.repeat(examples), settings, step, 0, 1.0)
    return peak_bytes("cpu") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="write this CPU as a device file")
    parser.add_argument("--repeats", type=int, default=5, help="steps of each point; 0 = only measure the device")
    parser.add_argument("--peak", nargs=2, metavar=("POINT", "KIND"), help="run steps of a point and print their peak")
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time; use it with one thread")
    options = parser.parse_args()
    if options.cpu_time:
        time.perf_counter = time.process_time
    if options.peak:
        print(peak_of_steps(POINTS[int(options.peak[0])], options.peak[1]))
        return
    device = measure_cpu()
    device_file = json.dumps(device.model_dump(by_alias=True), indent=2)
    print(device_file)
    if options.output:
        write_atomically(options.output, [device_file + "\n"])
    print_estimate_at_0_6b(device)
    ratios: Ratios = {}
    for number in range(len(POINTS)) if options.repeats else ():
        compare(number, options.repeats, device, ratios)
    print()
    for name, values in ratios.items():
        print(f"{name}: {median_and_range(values)}, geometric mean {statistics.geometric_mean(values):.2f}")


if __name__ == "__main__":
    main()
