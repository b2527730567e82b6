"""Parts of `benchmarks.gpu` that say how fast an accelerator is, and how much it holds."""

import random
import statistics
from argparse import Namespace
from contextlib import suppress
from functools import partial

import torch
from benchmarks.drafts import corrupted
from benchmarks.gpu_setting import Finding, Findings, Setting
from benchmarks.memory import peak_bytes, start_watching_memory
from benchmarks.opd_step import PHASES, WORDS, ceilings, floating_point_operations, measure, noise_examples, options_of
from benchmarks.rollouts import generated
from benchmarks.timing import seconds_taken, spread, timed

from arkasr.data.audio import SAMPLE_RATE
from arkasr.recognizers.decoding import decode
from arkasr.recognizers.inference import RecognitionSettings, recognize_clips
from arkasr.recognizers.recognizer import Recognizer
from arkasr.train.distribution import accelerator_for
from arkasr.train.distribution import distribute as laid_out
from arkasr.train.settings import ObjectiveSettings, OptimizationSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from arkasr.train.step import optimizer_step
from benchmarks import objective as objectives

GIB = 2**30
MEMORIES = (24, 80)  # GB, of the cards that people have
MOST_UTTERANCES = 512
TRANSCRIPT_TOKENS = 64  # about 20 seconds of English


def steps(setting: Setting) -> Findings:
    """A whole OPD step against an SFT step, phase by phase, at several batch sizes."""
    sizes = (2, 4) if setting.tiny else (8, 16, 32, 64)
    for utterances in sizes:
        options = options_of(_step_options(setting, utterances))
        found = None  # the models of the size before make room
        with suppress(torch.OutOfMemoryError):
            found = measure(options)
        if found is None:
            yield Finding(f"{utterances} utterances of {options.seconds:g} s", "do not fit")
            continue
        sft, opd = found.seconds["sft"], found.seconds["opd"]
        name = f"{utterances} utterances of {options.seconds:g} s"
        yield Finding(f"{name}: OPD without the teacher / SFT", spread(found.ratios))
        yield Finding(f"{name}: teacher, in SFT steps", f"{opd['teacher'] / sft['step']:.2f}")
        operations, _ = ceilings(options.device, options.precision)
        counts = floating_point_operations(found.student, options)
        for stage, row in found.seconds.items():
            whole = row["step"] + row["teacher"]
            shares = ", ".join(f"{phase} {row[phase] / sft['step']:.2f}" for phase in PHASES if row[phase])
            yield Finding(f"{name}: {stage}, phases in SFT steps", shares)
            audio = utterances * options.seconds * 0.95
            yield Finding(
                f"{name}: {stage}, a second", f"{utterances / whole:.3g} utterances, {audio / whole:.4g} s of audio"
            )
            needed = sum(count for place, count in counts.items() if place.split()[0] == stage)
            share = needed / operations / row["step"]
            yield Finding(
                f"{name}: {stage}, FLOPs utilisation", f"{share:.0%} of {operations / 1e12:.3g} TFLOP/s reached here"
            )
            if setting.device == "cuda":
                yield Finding(
                    f"{name}: {stage}, peak memory, the teacher's weights included",
                    f"{found.peaks[stage] / GIB:.1f} GiB",
                )


def _step_options(setting: Setting, utterances: int) -> list[str]:
    size = ["--utterances", str(utterances), "--device", setting.device, "--repeats", "2" if setting.tiny else "5"]
    if setting.tiny:
        return [*size, "--seconds", "2", "--tokens", "8"]
    models = ["--student", "ark-asr-0.6b", "--teacher", "qwen3-asr-1.7b", "--vocabulary", "151936"]
    return [*size, *models, "--precision", "bf16", "--seconds", "10", "--tokens", "40"]


def cost_of_the_objective(setting: Setting) -> Findings:
    """The fused objective against the published procedure, TRL's loss and the dense reference."""
    shapes = {"utterances": 2, "prompt": 20, "tokens": 6, "cap": 16, "vocabulary": 700, "student": 32, "teacher": 48}
    if not setting.tiny:
        shapes = {
            "utterances": 16,
            "prompt": 135,
            "tokens": 48,
            "cap": 256,
            "vocabulary": 151_936,
            "student": 896,
            "teacher": 2048,
        }
    top_k = 32
    precision = "no" if setting.tiny else "bf16"
    x = objectives.problem(Namespace(**shapes, top_k=top_k, device=setting.device, precision=precision, tied=False))
    taken: dict[str, list[float]] = {name: [] for name in objectives.WAYS}
    peaks = {}
    for repeat in range(3 if setting.tiny else 8):
        for name, way in objectives.WAYS.items():
            x.student_hidden.grad = x.student_head.grad = None
            start_watching_memory(setting.device)
            before = torch.cuda.memory_allocated() if setting.device == "cuda" else 0
            _, seconds = timed(partial(objectives.learned_from, way, x, top_k), setting.device)
            if repeat:
                taken[name].append(seconds)
            peaks[name] = peak_bytes(setting.device) - before
    for name in (name for name in taken if name != "fused"):
        ratios = [slow / fast for slow, fast in zip(taken[name], taken["fused"], strict=True)]
        yield Finding(f"{name} / fused", spread(ratios, digits=1))
    yield Finding("fused", f"{1000 * statistics.median(taken['fused']):.1f} ms")
    if "trl" not in taken:
        yield Finding("trl / fused", "TRL is not installed")
    if setting.device == "cuda":
        for name, peak in peaks.items():
            yield Finding(f"{name}: peak memory above weights and states", f"{peak / 2**20:.0f} MiB")


def cost_of_rollouts(setting: Setting) -> Findings:
    """Rollouts along drafts with 5% wrong tokens and without, against `generate`, the audio embedded by each."""
    count, tokens, repeats = (3, 8, 2) if setting.tiny else (64, 48, 5)
    student = setting.student(torch.float32 if setting.tiny else torch.bfloat16)
    features = [student.features(clip) for clip in setting.clips([2.0] * count if setting.tiny else [10.0] * count)]
    prompts = student.prompts(features, ["English"] * count).to(student.device)
    plain = decode(student, prompts, max_new_tokens=tokens)
    words = student.transcript_ids(" ".join(WORDS))[:-1].tolist()
    draw = random.Random(0)
    drafts = [corrupted(written.tolist(), 0.05, words, draw) for written in plain.tokens]
    ways = {
        "generate": lambda: generated(student, prompts, tokens),
        "without drafts": lambda: decode(student, prompts, max_new_tokens=tokens),
        "along drafts": lambda: decode(student, prompts, max_new_tokens=tokens, drafts=drafts),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            seconds = seconds_taken(way, setting.device)
            if repeat:
                taken[name].append(seconds)
    passes = ways["along drafts"]().passes
    yield Finding(f"{count} utterances of {tokens} tokens: passes", f"{plain.passes} without, {passes} along drafts")
    for name in ("generate", "without drafts"):
        ratios = [slow / fast for slow, fast in zip(taken[name], taken["along drafts"], strict=True)]
        yield Finding(f"{name} / along drafts", spread(ratios))
    yield Finding("along drafts", f"{1000 * statistics.median(taken['along drafts']):.0f} ms")


def transcription(setting: Setting) -> Findings:
    """Clips of 5 to 30 s by length, features computed ahead, against `generate` in file order, features in between."""
    count, batch, cap = (6, 3, 8) if setting.tiny else (1000, 64, TRANSCRIPT_TOKENS)
    draw = random.Random(0)
    seconds = [draw.uniform(1, 3) if setting.tiny else draw.triangular(5, 30, 12) for _ in range(count)]
    clips = setting.clips(seconds)
    student = setting.student(torch.float32 if setting.tiny else torch.bfloat16)
    settings = RecognitionSettings(batch_seconds=30.0 * batch, max_new_tokens=cap, batch_clips=batch)

    def ours(some: range) -> None:
        lengths = {number: seconds[number] for number in some}
        for _ in recognize_clips(student, lengths, lambda n: student.features(clips[n]), lambda _: "English", settings):
            pass

    def plain(some: range) -> None:
        for first in range(0, len(some), batch):
            numbers = some[first : first + batch]
            features = [student.features(clips[number]) for number in numbers]
            prompts = student.prompts(features, ["English"] * len(numbers)).to(student.device)
            generated(student, prompts, cap).cpu()

    few = range(min(4 * batch, count))
    for way in (ours, plain):
        way(few[:batch])
    took = {way.__name__: seconds_taken(partial(way, few), setting.device) for way in (ours, plain)}
    yield Finding(f"plain generate / ours, {len(few)} clips", f"{took['plain'] / took['ours']:.2f}")
    whole = seconds_taken(partial(ours, range(count)), setting.device)
    name = f"{count} clips, {sum(seconds) / 60:.0f} minutes, {cap} tokens each, batches of {batch}"
    yield Finding(f"{name}: real-time factor", f"{sum(seconds) / whole:.0f}")


def features(setting: Setting) -> Findings:
    """Log-mel features on the device against one CPU core."""
    student = setting.student()
    clips = setting.clips([10.0] * (4 if setting.tiny else 64))
    extractor = student.processor.feature_extractor
    audio = 10.0 * len(clips)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    on_core = statistics.median(
        seconds_taken(lambda: [student.features(clip) for clip in clips], "cpu") for _ in range(3)
    )
    torch.set_num_threads(threads)

    def on_device() -> None:
        options = {"sampling_rate": SAMPLE_RATE, "padding": "longest", "return_tensors": "pt"}
        extractor(clips, device=setting.device, **options)["input_features"].to(setting.device)

    on_device()
    there = statistics.median(seconds_taken(on_device, setting.device) for _ in range(3))
    yield Finding("one core", f"{audio / on_core:.0f} s of audio a second")
    yield Finding(f"{setting.device}, {len(clips)} clips at once", f"{audio / there:.0f} s of audio a second")
    yield Finding("cores that one device is worth", f"{on_core / there:.1f}")


def largest_batch(setting: Setting) -> Findings:
    """The most utterances of 10 s and 40 tokens in a micro-batch, by the memory of the card."""
    if setting.device == "cpu":
        yield Finding("largest batch", "looked for on a GPU only")
        return
    total = torch.cuda.get_device_properties(0).total_memory / 1e9
    precision = "no" if setting.tiny else "bf16"
    settings = OptimizationSettings(steps=10**9, batch_seconds=1e9, learning_rate=1e-12, mixed_precision=precision)
    for memory in (size for size in MEMORIES if size <= total * 1.05):
        torch.cuda.set_per_process_memory_fraction(min(memory / total, 1.0))
        for name in ("sft", "opd"):
            most = _most_utterances(setting, name, settings)
            least = "at least " if most == MOST_UTTERANCES else ""
            found = f"{least}{most} utterances" if most else "not even one utterance fits"
            yield Finding(f"{name}, {memory} GB of tensors", found)


def _most_utterances(setting: Setting, name: str, settings: OptimizationSettings) -> int:
    try:
        student = setting.student()
        teacher = setting.teacher(torch.float32 if setting.tiny else torch.bfloat16) if name == "opd" else None
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return 0
    objective = ObjectiveSettings(max_new_tokens=40)
    stage = SupervisedStage(student, None) if teacher is None else DistillationStage(student, teacher, objective)
    accelerator = accelerator_for(stage, settings)
    module, optimizers = laid_out(accelerator, stage, settings)
    recognizers: list[Recognizer] = [student] if teacher is None else [student, teacher]

    def fits(count: int) -> bool:
        examples = noise_examples(
            recognizers, options_of(["--utterances", str(count), "--seconds", "10", "--tokens", "40"])
        )
        try:
            for step in (1, 2):  # the optimizer's moments are there from the second on
                optimizer_step(accelerator, stage, module, optimizers, iter([examples]), settings, step, 0, 1.0)
            return True
        except torch.OutOfMemoryError:
            stage.zero_grad()
        # Behind the handler, whose error still holds what did not fit.
        torch.cuda.empty_cache()
        return False

    below, above = 0, 1
    while above <= MOST_UTTERANCES and fits(above):
        below, above = above, 2 * above
    while above - below > max(below // 8, 1):
        if below == MOST_UTTERANCES:
            break
        middle = (below + above) // 2
        below, above = (middle, above) if fits(middle) else (below, middle)
    return below


PARTS = {
    part.__name__: part
    for part in (steps, cost_of_the_objective, cost_of_rollouts, transcription, features, largest_batch)
}
