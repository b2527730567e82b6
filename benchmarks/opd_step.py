"""What the student pays for an OPD step, against an SFT step on the same batch.

    python -m benchmarks.opd_step
    python -m benchmarks.opd_step --student ark-asr-0.6b --vocabulary 163958 --utterances 2 --seconds 6 --tokens 24
    python -m benchmarks.opd_step --device cuda --precision bf16 --student ark-asr-0.6b --teacher qwen3-asr-1.7b
        --vocabulary 151936 --utterances 32 --seconds 10 --tokens 40

Real optimizer steps of the real training loop on random weights and noise for audio. The rollouts run to the cap, the
references have as many tokens, and the drafts are the rollouts with a share of their tokens replaced, so that the two
stages read and write alike. The teacher's own time is left out of the OPD step and said beside it. Timed in turns.
"""

import argparse
import itertools
import random
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from benchmarks.drafts import corrupted
from benchmarks.memory import peak_bytes, start_watching_memory
from benchmarks.timing import seconds_taken, spread, timed

from arkasr.data.examples import Example
from arkasr.data.manifests.manifest import Utterance
from arkasr.model.processor import INSTRUCTION
from arkasr.recognizers.ark_asr import ARK_ASR_PRESETS, build_ark_asr
from arkasr.recognizers.decoding import decode
from arkasr.recognizers.qwen3_asr import PROMPT_WORDS, QWEN3_ASR_PRESETS, build_qwen3_asr
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.tokenizer import BaseVocabulary, train_base_vocabulary
from arkasr.train.optimizer import build_optimizers
from arkasr.train.settings import ObjectiveSettings, OptimizationSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from arkasr.train.step import optimizer_step

WORDS = tuple("one two three four five six seven eight nine ten red green book train bus london paris".split())  # noqa: SIM905
PHASES = ("encode", "rollout", "student", "backward", "optimizer")
QWEN_BASE_TOKENS = 151_643
ROWS_OF_ADDED_TOKENS = 100
HELD = 1e-12  # learning rate at which the rollouts stay what they are


def base_vocabulary(rows: int) -> BaseVocabulary:
    """Tokens of a few words, and as many that no text is written with as fill the rows of a head, as far as Qwen's."""
    learned = train_base_vocabulary([" ".join(WORDS)] * 3, 400, [INSTRUCTION, *PROMPT_WORDS])
    size = min(rows - ROWS_OF_ADDED_TOKENS, QWEN_BASE_TOKENS)
    others = {f"w{token_id}": token_id for token_id in range(len(learned.token_to_id), size)}
    return replace(learned, token_to_id=learned.token_to_id | others)


def built_on(
    device: str,
    build: Callable[[Mapping[str, Any], BaseVocabulary], Recognizer],
    sizes: Mapping[str, Any],
    vocabulary: BaseVocabulary,
) -> Recognizer:
    """A recogniser whose random weights are drawn on the device: a billion of them take a minute on the CPU."""
    with torch.device(device):
        recognizer = build(sizes, vocabulary)
    recognizer.allowed_tokens = recognizer.allowed_tokens.cpu()
    return recognizer


def noise_examples(recognizers: list[Recognizer], options: argparse.Namespace) -> list[Example]:
    generator = np.random.default_rng(0)
    student = recognizers[0]
    examples = []
    for place in range(options.utterances):
        seconds = options.seconds * generator.uniform(0.9, 1.0)
        waveform = generator.normal(size=int(seconds * 16_000)).astype(np.float32) * 0.1
        text = ""
        while len(student.transcript_ids(text)) < options.tokens:
            text += f" {generator.choice(WORDS)}"
        fields = (Path("noise.wav"), text, None, None, "English", str(place), None, seconds, {})
        features = {recognizer.frontend: recognizer.features(waveform) for recognizer in recognizers}
        examples.append(Example(Utterance(*fields), features))
    return examples


@torch.no_grad()
def rollouts_of(student: Recognizer, examples: list[Example], options: argparse.Namespace) -> dict[str, torch.Tensor]:
    """What the student writes with the weights it has, by utterance."""
    features = [example.features[student.frontend] for example in examples]
    prompts = student.prompts(features, ["English"] * len(examples)).to(student.device)
    with torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16"):
        found = decode(student, student.embed_audio(prompts), max_new_tokens=options.tokens)
    return {example.utterance.id: tokens for example, tokens in zip(examples, found.tokens, strict=True)}


def floating_point_operations(student: Recognizer, options: argparse.Namespace) -> dict[str, float]:
    """Multiplications and additions that each phase needs, of real frames and tokens, attention included."""
    utterances, frames = options.utterances, options.seconds * 0.95 * 50
    positions = frames / 4 + len(student.prompt_ids(4, None)) + options.tokens
    encoder, decoder = student.audio_modules[0], student.decoder.layers
    config, audio = student.model.config, student.model.config.whisper_config
    hear = 2 * frames * _weights(encoder) + 4 * frames**2 * audio.d_model * audio.encoder_layers
    read = 2 * positions * _weights(decoder) + 2 * positions**2 * config.hidden_size * config.num_hidden_layers
    head = 2 * options.tokens * student.head.numel()
    counts = {
        "sft": {"encode": hear, "student": read + head, "backward": 2 * (hear + read + head)},
        "opd": {"encode": hear, "rollout": read + head, "student": read + head, "backward": 2 * (hear + read)},
    }
    return {f"{name} {phase}": utterances * count for name, row in counts.items() for phase, count in row.items()}


def _weights(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.dim() > 1)


def ceilings(device: str, precision: str) -> tuple[float, float]:
    """Operations and bytes a second that this machine reaches on a large product and a large copy, in this run."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    source = torch.zeros(2**27, device=device)
    target = torch.empty_like(source)
    products = [seconds_taken(lambda: a @ b, device) for _ in range(5)]
    if device == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available():
        left = a.to_mkldnn()
        products += [seconds_taken(lambda: torch.nn.functional.linear(left, b), device) for _ in range(5)]
    copies = [seconds_taken(lambda: target.copy_(source), device) for _ in range(5)]
    return 2 * size**3 / min(products), 2 * source.nbytes / min(copies)


@dataclass
class Measured:
    """Medians over the turns, passes on average; seconds by stage and phase, `step` without the teacher."""

    student: Recognizer
    seconds: dict[str, dict[str, float]]
    peaks: dict[str, int]
    ratios: list[float]
    tokens: int
    passes: float
    valid_share: float


def measure(options: argparse.Namespace) -> Measured:
    torch.manual_seed(0)
    vocabulary = base_vocabulary(options.vocabulary or 0)
    width = {"vocab_size": options.vocabulary} if options.vocabulary else {}
    student = built_on(
        options.device, build_ark_asr, (options.sizes or ARK_ASR_PRESETS[options.student]) | width, vocabulary
    )
    sizes = QWEN3_ASR_PRESETS[options.teacher]
    sizes = sizes | {"text_config": sizes["text_config"] | width}
    teacher = built_on(options.device, build_qwen3_asr, sizes, vocabulary)
    if options.precision == "bf16":
        teacher.model.bfloat16()
    examples = noise_examples([student, teacher], options)
    settings = OptimizationSettings(
        steps=10**9,
        batch_seconds=1e9,
        learning_rate=HELD,
        mixed_precision=options.precision,
    )
    objective = ObjectiveSettings(top_k=options.top_k, max_new_tokens=options.tokens)
    opd = DistillationStage(student, teacher, objective)
    stages = {"sft": SupervisedStage(student, None), "opd": opd}
    if options.compile:
        for network in (student.audio_modules[0], student.decoder):
            network.compile(dynamic=True)
    if options.checkpointing:
        student.model.gradient_checkpointing_enable({"use_reentrant": False})
    accelerator = Accelerator(mixed_precision=options.precision, cpu=options.device == "cpu")
    module, *optimizers = accelerator.prepare(opd, *build_optimizers(opd, settings))
    modules = {"sft": accelerator.prepare(stages["sft"]), "opd": module}
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["highest_lr"] = HELD

    unlabelled = [replace(item, utterance=replace(item.utterance, text=None)) for item in examples]
    batches = {"sft": itertools.repeat(examples), "opd": itertools.repeat(unlabelled)}
    times: dict[str, list[dict[str, float]]] = {name: [] for name in stages}
    peaks, values, passes = {}, {}, []
    words = student.transcript_ids(" ".join(WORDS))[:-1].tolist()
    written = rollouts_of(student, examples, options)
    draw = random.Random(0)
    for repeat in range(options.repeats + 1):
        for name, stage in stages.items():
            if name == "opd":
                for utterance, tokens in written.items():
                    opd.rollouts.remembered.learn(
                        {utterance: list(corrupted(tokens.tolist(), options.wrong, words, draw))}
                    )
                if options.no_drafts:
                    opd.rollouts.remembered = type(opd.rollouts.remembered)()
            start_watching_memory(options.device)
            step = (accelerator, stage, modules[name], optimizers, batches[name], settings, repeat + 1, 0, 1.0)
            outcome, taken = timed(partial(optimizer_step, *step), options.device)
            values[name] = outcome.metrics.values()
            if repeat:
                passes += [values[name]["rollout/passes"]] if name == "opd" else []
                phases = {key: values[name].get(f"time/{key}", 0.0) for key in (*PHASES, "teacher")}
                times[name].append(phases | {"step": taken - phases["teacher"]})
                peaks[name] = max(peaks.get(name, 0), peak_bytes(options.device))
    medians = {
        name: {phase: statistics.median(row[phase] for row in rows) for phase in rows[0]}
        for name, rows in times.items()
    }
    return Measured(
        student,
        medians,
        peaks,
        [opd["step"] / sft["step"] for opd, sft in zip(times["opd"], times["sft"], strict=True)],
        sum(map(len, written.values())),
        statistics.mean(passes),
        values["opd"]["support/valid_share"],
    )


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options as the command line has them; `[]` gives the defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", choices=list(ARK_ASR_PRESETS), default="ark-asr-tiny")
    parser.add_argument("--teacher", choices=list(QWEN3_ASR_PRESETS), default="qwen3-asr-tiny")
    parser.add_argument("--vocabulary", type=int, help="rows of the output heads; default: those of a small tokenizer")
    parser.add_argument("--utterances", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=2.5, help="of the longest utterance; the shortest has 90%%")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--wrong", type=float, default=0.05, help="share of a draft's tokens that are wrong")
    parser.add_argument("--no-drafts", action="store_true")
    parser.add_argument("--top-k", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--checkpointing", action="store_true", help="activation checkpointing, in both stages")
    parser.add_argument("--compile", action="store_true", help="encoder and decoder by torch.compile, in both stages")
    parser.set_defaults(sizes=None)  # config fields in place of a preset's, for other benchmarks
    return parser.parse_args(arguments)


def main() -> None:
    options = options_of()
    found = measure(options)
    sft = found.seconds["sft"]["step"]
    print(
        f"{options.student}, {sum(p.numel() for p in found.student.model.parameters()) / 1e6:.1f} M parameters, "
        f"{options.utterances} utterances of {options.seconds} s, {found.tokens} tokens written in {found.passes:.1f} "
        f"decoder passes, {found.valid_share:.0%} of them valid; "
        f"{int(found.student.allowed_tokens.sum())} of {found.student.vocab_size} tokens may be written; "
        f"{torch.get_num_threads()} threads, "
        f"{torch.cuda.get_device_name() if options.device == 'cuda' else 'CPU'}, precision {options.precision}"
    )
    for name, row in found.seconds.items():
        shares = ", ".join(f"{phase} {row[phase] / sft:.2f}" for phase in PHASES if row[phase])
        print(f"{name}: {shares}; together {row['step'] / sft:.2f} of an SFT step")
        print(f"{name}: {options.utterances / row['step']:.3g} utterances a second")
        if options.device != "cpu":  # there, one stage's memory is not told from what the other has left behind
            print(f"{name}: peak memory {found.peaks[name] / 2**20:.0f} MiB")
    print(f"teacher: {found.seconds['opd']['teacher'] / sft:.2f} of an SFT step")
    print(f"OPD without the teacher / SFT: {spread(found.ratios)}, {len(found.ratios)} turns")
    operations, transfer = ceilings(options.device, options.precision)
    print(f"ceilings in this run: {operations / 1e9:.0f} GFLOP/s, {transfer / 1e9:.1f} GB/s")
    floors = {place: count / operations for place, count in floating_point_operations(found.student, options).items()}
    for stage, row in found.seconds.items():
        needed = sum(seconds for place, seconds in floors.items() if place.split()[0] == stage)
        print(f"{stage}: model FLOPs utilisation {needed / row['step']:.0%} of the ceiling, teacher left out")
    # Read weight, gradient and two moments, write weight and moments.
    update = 28 * sum(p.numel() for p in found.student.model.parameters()) / transfer
    floors |= {"sft optimizer": update, "opd optimizer": update}
    for place, floor in floors.items():
        name, phase = place.split()
        print(f"floor of {place}: {floor / found.seconds[name][phase]:.0%} of the time it takes")


if __name__ == "__main__":
    main()
