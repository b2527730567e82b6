"""What this machine reaches, as a device for `arkasr plan --device`; and the plan against measured steps.

    python -m benchmarks.plan --output device.json
    arkasr plan recipes/smoke.yaml --gpus 1 --device device.json

The ceilings are a large product and a large copy. The shares of them and the price of a layer are measured on single
layers and calls, never on the steps that are then predicted: real SFT and OPD steps of `benchmarks/opd_step.py` at
several sizes, and the peak memory of each kind of step in a process of its own. Lengths and passes are handed to the
plan as they were; everything else is predicted. `--cpu-time` counts the seconds in which this process runs and not
those in which others do, for a machine that is not left alone; with one thread they are the same on one that is.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from accelerate import Accelerator
from benchmarks.children import output_of
from benchmarks.memory import peak_bytes, resident_bytes, start_watching_memory
from benchmarks.opd_step import QWEN_BASE_TOKENS, base_vocabulary, ceilings, measure, noise_examples, options_of
from benchmarks.timing import seconds_taken, spread
from torch.nn import functional as F

from arkasr.cost.assumptions import Assumptions
from arkasr.cost.device import Device, Shares
from arkasr.cost.estimate import Cluster, StageCost, training_cost
from arkasr.cost.sizes import Size, size_of, size_of_model
from arkasr.cost.work import Batch, Decoding
from arkasr.data.audio import SAMPLE_RATE, decode_audio
from arkasr.files import write_atomically
from arkasr.recipe.settings import ModelSettings, OpdStageSettings, SftStageSettings, TokenizerSettings
from arkasr.recognizers.ark_asr import ARK_ASR_PRESETS, build_ark_asr
from arkasr.recognizers.qwen3_asr import QWEN3_ASR_PRESETS, build_qwen3_asr
from arkasr.train.optimizer import build_optimizers
from arkasr.train.settings import ObjectiveSettings, OptimizationSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from arkasr.train.step import optimizer_step

PUBLISHED_PASSES = 4.8  # measured with the 0.6B student, docs/performance.md
UNFUSED_OPTIMIZER_BYTES = 100  # of AdamW as ten calls, with scaling, norm and clipping of the gradient
# What the C library frees goes back to the system at once, so that resident memory is memory in use.
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
MIDDLE = ARK_ASR_PRESETS["ark-asr-0.6b"] | {
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "whisper_config": ARK_ASR_PRESETS["ark-asr-0.6b"]["whisper_config"]
    | {"d_model": 512, "encoder_layers": 8, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048},
}
STUDENTS = {"small": ARK_ASR_PRESETS["ark-asr-tiny"], "middle": MIDDLE}


@dataclass(frozen=True)
class Point:
    """A batch on which plan and machine are compared."""

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
        options = options_of([])
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


def quickest(work: Callable[[], object], times: int = 7) -> float:
    return min(seconds_taken(work, "cpu") for _ in range(times + 1))


@torch.no_grad()
def this_machine() -> Device:
    """Ceilings of this machine's CPU, with as many threads as torch uses now."""
    operations, bandwidth = ceilings("cpu", "no")
    rows, width, inner = 1024, 512, 2048
    states, matrix = torch.randn(rows, width), torch.randn(inner, width)
    product = 2 * rows * width * inner / quickest(lambda: F.linear(states, matrix))
    large = torch.randn(16 * rows, width)
    calls = (lambda: F.layer_norm(large, (width,)), lambda: F.gelu(large), lambda: large + large, lambda: large * 2.0)
    read_and_written = (2 + 2 + 3 + 2) * large.nbytes
    swept = read_and_written / sum(map(quickest, calls))
    return Device(
        name=f"CPU, {torch.get_num_threads()} threads",
        source="a large product and a large copy, measured on this machine",
        shares_measured=True,
        operations={"no": operations},
        bandwidth=bandwidth,
        memory=resident_memory(),
        shares=Shares(
            products=min(product / operations, 1.0), bandwidth=1.0, elementwise=min(swept / bandwidth, 1.0), links=1.0
        ),
        layer_seconds=layer_seconds(),
        update_seconds=update_seconds(),
        launches_asynchronously=False,
        optimizer_bytes=UNFUSED_OPTIMIZER_BYTES,
        per_node=1,
        # Processes of one machine: every byte is written and read again.
        link_in_node=bandwidth / 2,
        link_between_nodes=bandwidth / 2,
        hop_seconds=50e-6,
        feature_rate=feature_rate(),
    )


def resident_memory() -> float:
    """Bytes of this machine."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemTotal"))


def layer_seconds() -> float:
    """What a layer of the smallest decoder costs that reads one token, less what its few products take."""
    student = build_ark_asr(STUDENTS["small"], base_vocabulary(0))
    embedded = torch.randn(1, 1, student.embedding_size)
    mask, place = torch.ones(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long)
    read = partial(student.decoder, inputs_embeds=embedded, attention_mask=mask, position_ids=place, use_cache=False)
    return quickest(read, 50) / student.model.config.num_hidden_layers


@torch.enable_grad()
def update_seconds() -> float:
    """What the optimizer's calls cost for the weights of one small layer."""
    layer = build_ark_asr(STUDENTS["small"], base_vocabulary(0)).decoder.layers[0]
    optimizer = torch.optim.AdamW(layer.parameters())

    def update() -> None:
        for parameter in layer.parameters():
            parameter.grad.mul_(1.0)
        torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()

    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    return quickest(update, 20)


def feature_rate() -> float:
    """Seconds of audio that are read from FLAC and turned into one model's features in a second."""
    student = build_ark_asr(MIDDLE, base_vocabulary(0))
    seconds = 10.0
    waveform = np.random.default_rng(0).normal(size=int(seconds * SAMPLE_RATE)).astype(np.float32) * 0.1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.flac"
        soundfile.write(path, waveform, SAMPLE_RATE)
        return seconds / quickest(lambda: student.features(decode_audio(path)))


def settings_of(point: Point) -> dict[str, Any]:
    optimization = {"steps": 10**9, "batch_seconds": 1e9, "learning_rate": 1e-12}
    objective = {"max_new_tokens": point.tokens}
    return {
        "sft": SftStageSettings(kind="sft", start="x", train="x", optimization=optimization),
        "opd": OpdStageSettings(
            kind="opd", start="x", train="x", teacher="y", objective=objective, optimization=optimization
        ),
    }


def predicted(point: Point, student: Size, teacher: Size, passes: float, device: Device) -> dict[str, StageCost]:
    # Clips of 90 to 100% of the longest one's length are padded to it, and the batch is given with its padding.
    assumptions = replace(Assumptions(), padding=0.0)
    batch = Batch(point.utterances, point.seconds, point.tokens)
    return {
        name: training_cost(
            name,
            stage,
            student,
            teacher if name == "opd" else None,
            Cluster(device, 1),
            batch,
            Decoding(passes, drafted=True),
            assumptions,
        )
        for name, stage in settings_of(point).items()
    }


def print_published_size(device: Device) -> None:
    """The 0.6B student's steps in units of its SFT step, to lay beside "A whole step" in docs/performance.md."""
    student = size_of_model("student", ModelSettings(pretrained="AutoArk-AI/ARK-ASR-0.6B"), None)
    tokens = TokenizerSettings(texts="x", vocab_size=QWEN_BASE_TOKENS)
    teacher = size_of_model("teacher", ModelSettings(preset="qwen3-asr-tiny"), tokens)
    point = Point("0.6B", 2, 6.0, 40, student.vocabulary)
    costs = predicted(point, student, teacher, PUBLISHED_PASSES, device)
    unit = sum(costs["sft"].phases.values())
    print(f"\n{point}, predicted, in units of the SFT step")
    for name, cost in costs.items():
        own = {phase: seconds / unit for phase, seconds in cost.phases.items() if phase != "teacher"}
        print(f"{name}: {', '.join(f'{phase} {share:.2f}' for phase, share in own.items())}; {sum(own.values()):.2f}")


def models_of(point: Point, options: argparse.Namespace) -> tuple[Any, Any]:
    vocabulary = base_vocabulary(point.vocabulary)
    torch.manual_seed(0)
    width = {"vocab_size": point.vocabulary}
    student = build_ark_asr(options.sizes | width, vocabulary)
    sizes = QWEN3_ASR_PRESETS[options.teacher]
    return student, build_qwen3_asr(sizes | {"text_config": sizes["text_config"] | width}, vocabulary)


def peak_of_steps(point: Point, kind: str) -> int:
    """Bytes of this process at the worst moment of two steps, above what it has when the models are there.

    Steps of a smaller model come before, so that code, kernels and the like are there, too.
    """
    stepped(POINTS[0], kind)
    return stepped(point, kind)


def stepped(point: Point, kind: str) -> int:
    options = point.options(0)
    student, teacher = models_of(point, options)
    examples = noise_examples([student, teacher], options)
    settings = OptimizationSettings(steps=10**9, batch_seconds=1e9, learning_rate=1e-12)
    objective = ObjectiveSettings(max_new_tokens=point.tokens)
    stage = SupervisedStage(student, None) if kind == "sft" else DistillationStage(student, teacher, objective)
    accelerator = Accelerator(cpu=True)
    module, *optimizers = accelerator.prepare(stage, *build_optimizers(stage, settings))
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["highest_lr"] = group["lr"]
    before = resident_bytes("VmRSS")
    start_watching_memory("cpu")
    for step in (1, 2):
        optimizer_step(accelerator, stage, module, optimizers, itertools.repeat(examples), settings, step, 0, 1.0)
    return peak_bytes("cpu") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="write this machine as a device")
    parser.add_argument("--repeats", type=int, default=5, help="steps of each point; 0 = the device only")
    parser.add_argument("--peak", nargs=2, metavar=("POINT", "KIND"), help="run steps of a point and print their peak")
    parser.add_argument("--cpu-time", action="store_true", help="count this process's seconds; take one thread")
    options = parser.parse_args()
    if options.cpu_time:
        time.perf_counter = time.process_time
    if options.peak:
        print(peak_of_steps(POINTS[int(options.peak[0])], options.peak[1]))
        return
    device = this_machine()
    print(json.dumps(device.model_dump(by_alias=True), indent=2))
    if options.output:
        write_atomically(options.output, [json.dumps(device.model_dump(by_alias=True), indent=2) + "\n"])
    print_published_size(device)
    ratios: dict[str, list[float]] = {}
    for place, point in enumerate(POINTS if options.repeats else ()):
        asked = point.options(options.repeats)
        student, teacher = models_of(point, asked)
        sizes = size_of(student), size_of(teacher)
        del student, teacher
        found = measure(asked)
        print(f"\n{point}; {found.passes:.1f} decoder passes")
        for name, cost in predicted(point, *sizes, found.passes, device).items():
            taken = found.seconds[name]
            shown = []
            for phase, seconds in cost.phases.items():
                shown.append(f"{phase} {seconds / taken[phase]:.2f}")
                ratios.setdefault(phase, []).append(seconds / taken[phase])
            step = sum(cost.phases.values()) / (taken["step"] + taken["teacher"])
            ratios.setdefault(f"{name} step", []).append(step)
            command = [sys.executable, "-m", "benchmarks.plan", "--peak", str(place), name]
            peak = int(output_of(command, os.environ | GIVEN_BACK).split()[-1])
            grown = cost.peak - cost.memory["weights"] - cost.memory.get("teacher", 0.0)
            ratios.setdefault(f"{name} memory", []).append(grown / peak)
            print(
                f"{name}: predicted / measured: {', '.join(shown)}; step {step:.2f} of {taken['step']:.2f} s without "
                f"teacher; memory beside the models {grown / peak:.2f} of {peak / 2**20:.0f} MiB"
            )
    print()
    for name, found_ratios in ratios.items():
        print(f"{name}: {spread(found_ratios)}, geometric mean {statistics.geometric_mean(found_ratios):.2f}")


if __name__ == "__main__":
    main()
