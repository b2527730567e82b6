"""Cost of an OPD step for the student, in units of an SFT step on the same batch.

    python -m benchmarks.opd_step
    python -m benchmarks.opd_step --student ark-asr-0.6b --vocabulary 163958 --utterances 2 --seconds 6 --tokens 24
    python -m benchmarks.opd_step --device cuda --precision bf16 --student ark-asr-0.6b --teacher qwen3-asr-1.7b
        --vocabulary 151936 --utterances 32 --seconds 10 --tokens 40

Prints each phase of both stages in units of the SFT step, and the share of the machine's peak speed that it reaches.
The teacher's time is not part of the OPD step and has its own line.

The steps are those of the training loop, on random weights and noise; no data is needed. SFT and OPD steps alternate.
Rollouts, references and drafts have the same number of tokens. Drafts are the rollouts with some tokens replaced.
"""

import argparse
import itertools
import random
import statistics
from dataclasses import dataclass, replace
from functools import partial

import torch
from accelerate import Accelerator
from benchmarks.drafts import corrupted
from benchmarks.memory import peak_bytes, reset_peak_memory
from benchmarks.operations import operations_of_phases, peak_speeds
from benchmarks.random_models import WORDS, base_vocabulary, build_on_device, noise_examples
from benchmarks.timing import median_and_range, ratios, timed

from arkasr.data.examples import Example
from arkasr.recognizers.ark_asr import ARK_ASR_PRESETS, build_ark_asr
from arkasr.recognizers.decoding import decode
from arkasr.recognizers.qwen3_asr import QWEN3_ASR_PRESETS, build_qwen3_asr
from arkasr.recognizers.recognizer import Recognizer
from arkasr.train.optimizer import build_optimizers
from arkasr.train.settings import ObjectiveSettings, OptimizationSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from arkasr.train.step import optimizer_step

PHASES = ("encode", "rollout", "student", "backward", "optimizer")
NEGLIGIBLE_LEARNING_RATE = 1e-12  # the rollouts of all steps stay the same


@dataclass
class Measurement:
    """What `measure` finds.

    Attributes:
        student: the model that was trained.
        seconds: medians by stage and phase; `step` is the step without the teacher.
        peaks: bytes by stage.
        step_ratios: OPD step / SFT step, one for each pair of steps.
        tokens: of all rollouts of the batch.
        passes: decoder passes of a rollout, the mean.
        valid_share: share of the rollouts' tokens in the loss.
    """

    student: Recognizer
    seconds: dict[str, dict[str, float]]
    peaks: dict[str, int]
    step_ratios: list[float]
    tokens: int
    passes: float
    valid_share: float


def measure(options: argparse.Namespace) -> Measurement:
    """Alternate SFT and OPD steps; the first step of each is not counted."""
    student, teacher = build_models(options)
    examples = noise_examples([student, teacher], options)
    settings = OptimizationSettings(
        steps=10**9, batch_seconds=1e9, learning_rate=NEGLIGIBLE_LEARNING_RATE, mixed_precision=options.precision
    )
    objective = ObjectiveSettings(top_k=options.top_k, max_new_tokens=options.tokens)
    opd = DistillationStage(student, teacher, objective)
    stages = {"sft": SupervisedStage(student, None), "opd": opd}
    accelerator = Accelerator(mixed_precision=options.precision, cpu=options.device == "cpu")
    module, *optimizers = accelerator.prepare(opd, *build_optimizers(opd, settings))
    modules = {"sft": accelerator.prepare(stages["sft"]), "opd": module}
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["highest_lr"] = NEGLIGIBLE_LEARNING_RATE
    unlabelled = [replace(item, utterance=replace(item.utterance, text=None)) for item in examples]
    batches = {"sft": itertools.repeat(examples), "opd": itertools.repeat(unlabelled)}

    times: dict[str, list[dict[str, float]]] = {name: [] for name in stages}
    peaks, values, passes = {}, {}, []
    words = student.transcript_ids(" ".join(WORDS))[:-1].tolist()
    rollouts = rollouts_of(student, examples, options)
    generator = random.Random(0)
    for repeat in range(options.repeats + 1):
        for name, stage in stages.items():
            if name == "opd":
                for utterance, tokens in rollouts.items():
                    draft = corrupted(tokens.tolist(), options.wrong, words, generator)
                    opd.rollouts.cache.update({utterance: draft})
                if options.no_drafts:
                    opd.rollouts.cache = type(opd.rollouts.cache)()
            reset_peak_memory(options.device)
            step = (accelerator, stage, modules[name], optimizers, batches[name], settings, repeat + 1, 0, 1.0)
            outcome, seconds = timed(partial(optimizer_step, *step), options.device)
            values[name] = outcome.metrics.values()
            if repeat:
                passes += [values[name]["rollout/passes"]] if name == "opd" else []
                phases = {key: values[name].get(f"time/{key}", 0.0) for key in (*PHASES, "teacher")}
                times[name].append(phases | {"step": seconds - phases["teacher"]})
                peaks[name] = max(peaks.get(name, 0), peak_bytes(options.device))
    medians = {
        name: {phase: statistics.median(row[phase] for row in rows) for phase in rows[0]}
        for name, rows in times.items()
    }
    opd_steps, sft_steps = ([row["step"] for row in times[name]] for name in ("opd", "sft"))
    return Measurement(
        student,
        medians,
        peaks,
        ratios(opd_steps, sft_steps),
        sum(map(len, rollouts.values())),
        statistics.mean(passes),
        values["opd"]["support/valid_share"],
    )


def build_models(options: argparse.Namespace) -> tuple[Recognizer, Recognizer]:
    """Student and teacher with random weights."""
    torch.manual_seed(0)
    vocabulary = base_vocabulary(options.vocabulary or 0)
    width = {"vocab_size": options.vocabulary} if options.vocabulary else {}
    student_sizes = (options.sizes or ARK_ASR_PRESETS[options.student]) | width
    student = build_on_device(options.device, build_ark_asr, student_sizes, vocabulary)
    sizes = QWEN3_ASR_PRESETS[options.teacher]
    teacher_sizes = sizes | {"text_config": sizes["text_config"] | width}
    teacher = build_on_device(options.device, build_qwen3_asr, teacher_sizes, vocabulary)
    if options.precision == "bf16":
        teacher.model.bfloat16()
    if options.compile:
        for network in (student.audio_modules[0], student.decoder):
            network.compile(dynamic=True)
    if options.checkpointing:
        student.model.gradient_checkpointing_enable({"use_reentrant": False})
    return student, teacher


@torch.no_grad()
def rollouts_of(student: Recognizer, examples: list[Example], options: argparse.Namespace) -> dict[str, torch.Tensor]:
    """Greedy rollouts `[n]` of the initial weights, by utterance id."""
    features = [example.features[student.frontend] for example in examples]
    prompts = student.prompts(features, ["English"] * len(examples)).to(student.device)
    with torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16"):
        transcripts = decode(student, student.embed_audio(prompts), max_new_tokens=options.tokens)
    return {example.utterance.id: tokens for example, tokens in zip(examples, transcripts.tokens, strict=True)}


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line; `[]` gives the defaults."""
    return options_parser(__doc__).parse_args(arguments)


def options_parser(description: str | None) -> argparse.ArgumentParser:
    """The options of `build_models`, of the examples and of the steps."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", choices=list(ARK_ASR_PRESETS), default="ark-asr-tiny")
    parser.add_argument("--teacher", choices=list(QWEN3_ASR_PRESETS), default="qwen3-asr-tiny")
    parser.add_argument("--vocabulary", type=int, help="rows of the output heads; default: those of a small tokenizer")
    parser.add_argument("--utterances", type=int, default=24, help="in the batch")
    parser.add_argument("--seconds", type=float, default=2.5, help="of the longest utterance; the shortest has 90%%")
    parser.add_argument("--tokens", type=int, default=16, help="of each transcript")
    parser.add_argument("--wrong", type=float, default=0.05, help="error rate of the drafts")
    parser.add_argument("--no-drafts", action="store_true", help="roll out without drafts")
    parser.add_argument("--top-k", type=int, default=32, help="k of the objective")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps of each stage")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["no", "bf16"], default="no", help="mixed precision")
    parser.add_argument("--checkpointing", action="store_true", help="activation checkpointing in both stages")
    parser.add_argument("--compile", action="store_true", help="torch.compile encoder and decoder in both stages")
    parser.set_defaults(sizes=None)  # other benchmarks replace the preset's config fields
    return parser


def print_steps(found: Measurement, options: argparse.Namespace) -> None:
    sft = found.seconds["sft"]["step"]
    print(
        f"{options.student}, {sum(p.numel() for p in found.student.model.parameters()) / 1e6:.1f} M parameters; "
        f"{options.utterances} utterances of {options.seconds} s; {found.tokens} tokens in {found.passes:.1f} decoder "
        f"passes, {found.valid_share:.0%} of them valid; "
        f"{int(found.student.allowed_tokens.sum())} of {found.student.vocab_size} tokens are allowed; "
        f"{torch.get_num_threads()} threads, "
        f"{torch.cuda.get_device_name() if options.device == 'cuda' else 'CPU'}, precision {options.precision}"
    )
    for name, row in found.seconds.items():
        shares = ", ".join(f"{phase} {row[phase] / sft:.2f}" for phase in PHASES if row[phase])
        print(f"{name}, in SFT steps: {shares}; total {row['step'] / sft:.2f}")
        print(f"{name}: {options.utterances / row['step']:.3g} utterances a second")
        if options.device != "cpu":  # on a CPU, memory that the other stage left behind would be counted too
            print(f"{name}: peak memory {found.peaks[name] / 2**20:.0f} MiB")
    print(f"teacher, in SFT steps: {found.seconds['opd']['teacher'] / sft:.2f}")
    print(f"OPD without the teacher / SFT: {median_and_range(found.step_ratios)}, {len(found.step_ratios)} pairs")


def print_utilization(found: Measurement, options: argparse.Namespace) -> None:
    operations, bandwidth = peak_speeds(options.device, options.precision)
    print(f"peak speed in this run: {operations / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s")
    # AdamW reads weight, gradient and two moments, and writes weight and moments: 7 values of 4 bytes.
    update = 28 * sum(p.numel() for p in found.student.model.parameters()) / bandwidth
    for stage, counts in operations_of_phases(found.student, options).items():
        row = found.seconds[stage]
        share = sum(counts.values()) / operations / row["step"]
        print(f"{stage}, teacher excluded: model FLOPs utilisation {share:.0%} of the peak speed")
        shortest = {phase: count / operations for phase, count in counts.items()} | {"optimizer": update}
        for phase, seconds in shortest.items():
            print(f"{stage}, {phase}: shortest possible time / time taken {seconds / row[phase]:.0%}")


def main() -> None:
    options = parse_options()
    found = measure(options)
    print_steps(found, options)
    print_utilization(found, options)


if __name__ == "__main__":
    main()
