"""Parts of `benchmarks.gpu` that measure speed and memory of the device."""

import random
import statistics
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

import torch
from benchmarks.drafts import corrupted
from benchmarks.gpu_setting import PUBLISHED_VOCABULARY, Finding, Findings, Setting, prompts_of
from benchmarks.memory import peak_bytes, reset_peak_memory
from benchmarks.opd_step import PHASES, Measurement, measure, parse_options
from benchmarks.operations import operations_of_phases, peak_speeds
from benchmarks.random_models import WORDS, noise_examples
from benchmarks.rollouts import generate
from benchmarks.timing import median_and_range, ratios, seconds_taken, timed

from arkasr.data.audio import SAMPLE_RATE
from arkasr.recognizers.decoding import decode
from arkasr.recognizers.inference import RecognitionSettings, recognize_clips
from arkasr.recognizers.recognizer import Recognizer
from arkasr.train.distribution import accelerator_for, distribute
from arkasr.train.settings import ObjectiveSettings, OptimizationSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from arkasr.train.step import optimizer_step
from benchmarks import objective

GIB = 2**30
CARD_GIGABYTES = (24, 80)  # common sizes of a card's memory
MOST_UTTERANCES = 512
TRANSCRIPT_TOKENS = 64  # about 20 seconds of English


def steps(setting: Setting) -> Findings:
    """An OPD step against an SFT step, phase by phase, at several batch sizes."""
    for utterances in (2, 4) if setting.tiny else (8, 16, 32, 64):
        options = parse_options(_step_options(setting, utterances))
        name = f"{utterances} utterances of {options.seconds:g} s"
        found = None  # frees the models of the previous batch size
        with suppress(torch.OutOfMemoryError):
            found = measure(options)
        if found is None:
            yield Finding(name, "do not fit")
            continue
        yield from _figures_of_step(name, found, options)


def _step_options(setting: Setting, utterances: int) -> list[str]:
    size = ["--utterances", str(utterances), "--device", setting.device, "--repeats", "2" if setting.tiny else "5"]
    if setting.tiny:
        return [*size, "--seconds", "2", "--tokens", "8"]
    models = ["--student", "ark-asr-0.6b", "--teacher", "qwen3-asr-1.7b", "--vocabulary", str(PUBLISHED_VOCABULARY)]
    return [*size, *models, "--precision", "bf16", "--seconds", "10", "--tokens", "40"]


def _figures_of_step(name: str, found: Measurement, options: Namespace) -> Findings:
    sft_step = found.seconds["sft"]["step"]
    yield Finding(f"{name}: OPD without the teacher / SFT", median_and_range(found.step_ratios))
    yield Finding(f"{name}: teacher, in SFT steps", f"{found.seconds['opd']['teacher'] / sft_step:.2f}")
    speed, _ = peak_speeds(options.device, options.precision)
    operations = operations_of_phases(found.student, options)
    for stage, row in found.seconds.items():
        shares = ", ".join(f"{phase} {row[phase] / sft_step:.2f}" for phase in PHASES if row[phase])
        yield Finding(f"{name}: {stage}, phases in SFT steps", shares)
        total = row["step"] + row["teacher"]
        audio = options.utterances * options.seconds * 0.95
        throughput = f"{options.utterances / total:.3g} utterances, {audio / total:.4g} s of audio"
        yield Finding(f"{name}: {stage}, a second", throughput)
        utilisation = sum(operations[stage].values()) / speed / row["step"]
        shown = f"{utilisation:.0%} of the measured peak, {speed / 1e12:.3g} TFLOP/s"
        yield Finding(f"{name}: {stage}, FLOPs utilisation", shown)
        if options.device == "cuda":
            peak = f"{found.peaks[stage] / GIB:.1f} GiB"
            yield Finding(f"{name}: {stage}, peak memory, the teacher's weights included", peak)


def cost_of_the_objective(setting: Setting) -> Findings:
    """The fused objective against the published procedure, TRL's loss and the dense reference."""
    if setting.tiny:
        shapes = {"utterances": 2, "prompt": 20, "tokens": 6, "cap": 16, "vocabulary": 700}
        shapes |= {"student": 32, "teacher": 48}
    else:
        shapes = {"utterances": 16, "prompt": 135, "tokens": 48, "cap": 256, "vocabulary": PUBLISHED_VOCABULARY}
        shapes |= {"student": 896, "teacher": 2048}
    top_k = 32
    precision = "no" if setting.tiny else "bf16"
    options = Namespace(**shapes, top_k=top_k, device=setting.device, precision=precision, tied=False)
    x = objective.random_inputs(options)
    seconds: dict[str, list[float]] = {name: [] for name in objective.IMPLEMENTATIONS}
    peaks = {}
    for repeat in range(3 if setting.tiny else 8):
        for name, implementation in objective.IMPLEMENTATIONS.items():
            x.clear_gradients()
            reset_peak_memory(setting.device)
            before = torch.cuda.memory_allocated() if setting.device == "cuda" else 0
            _, taken = timed(partial(objective.loss_with_gradients, implementation, x, top_k), setting.device)
            if repeat:
                seconds[name].append(taken)
            peaks[name] = peak_bytes(setting.device) - before
    for name in (name for name in seconds if name != "fused"):
        yield Finding(f"{name} / fused", median_and_range(ratios(seconds[name], seconds["fused"]), digits=1))
    yield Finding("fused", f"{1000 * statistics.median(seconds['fused']):.1f} ms")
    if "trl" not in seconds:
        yield Finding("trl / fused", "TRL is not installed")
    if setting.device == "cuda":
        for name, peak in peaks.items():
            yield Finding(f"{name}: peak memory above weights and states", f"{peak / 2**20:.0f} MiB")


def cost_of_rollouts(setting: Setting) -> Findings:
    """Rollouts with drafts (5% wrong tokens) and without, against `generate`; each of them encodes the audio."""
    clips, tokens, repeats = ([2.0] * 3, 8, 2) if setting.tiny else ([10.0] * 64, 48, 5)
    student = setting.student(setting.fast_dtype)
    prompts = prompts_of(student, setting.clips(clips))
    plain = decode(student, prompts, max_new_tokens=tokens)
    words = student.transcript_ids(" ".join(WORDS))[:-1].tolist()
    generator = random.Random(0)
    drafts = [corrupted(transcript.tolist(), 0.05, words, generator) for transcript in plain.tokens]
    with_drafts = partial(decode, student, prompts, max_new_tokens=tokens, drafts=drafts)
    functions: dict[str, Callable[[], object]] = {
        "generate": partial(generate, student, prompts, tokens),
        "without drafts": partial(decode, student, prompts, max_new_tokens=tokens),
        "with drafts": with_drafts,
    }
    seconds = _alternate(functions, repeats, setting.device)
    passes = f"{plain.passes} without, {with_drafts().passes} with drafts"
    yield Finding(f"{len(clips)} utterances of {tokens} tokens: passes", passes)
    for name in ("generate", "without drafts"):
        yield Finding(f"{name} / with drafts", median_and_range(ratios(seconds[name], seconds["with drafts"])))
    yield Finding("with drafts", f"{1000 * statistics.median(seconds['with drafts']):.0f} ms")


def _alternate(functions: Mapping[str, Callable[[], object]], repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds of the functions, called in turns; the first call of each is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            seconds[name].append(seconds_taken(function, device))
    return {name: taken[1:] for name, taken in seconds.items()}


def transcription(setting: Setting) -> Findings:
    """Clips of 5 to 30 s: sorted by length, with prefetched features, against `generate` in file order without them."""
    count, batch, cap = (6, 3, 8) if setting.tiny else (1000, 64, TRANSCRIPT_TOKENS)
    generator = random.Random(0)
    seconds = [generator.uniform(1, 3) if setting.tiny else generator.triangular(5, 30, 12) for _ in range(count)]
    clips = setting.clips(seconds)
    student = setting.student(setting.fast_dtype)
    settings = RecognitionSettings(batch_seconds=30.0 * batch, max_new_tokens=cap, batch_clips=batch)

    def ours(numbers: range) -> None:
        lengths = {number: seconds[number] for number in numbers}
        for _ in recognize_clips(student, lengths, lambda n: student.features(clips[n]), lambda _: "English", settings):
            pass

    def plain(numbers: range) -> None:
        for first in range(0, len(numbers), batch):
            prompts = prompts_of(student, [clips[number] for number in numbers[first : first + batch]])
            generate(student, prompts, cap).cpu()

    few = range(min(4 * batch, count))
    for function in (ours, plain):
        function(few[:batch])
    ours_seconds, plain_seconds = (seconds_taken(partial(function, few), setting.device) for function in (ours, plain))
    yield Finding(f"plain generate / ours, {len(few)} clips", f"{plain_seconds / ours_seconds:.2f}")
    total = seconds_taken(partial(ours, range(count)), setting.device)
    name = f"{count} clips, {sum(seconds) / 60:.0f} minutes, {cap} tokens each, batches of {batch}"
    yield Finding(f"{name}: audio seconds a second", f"{sum(seconds) / total:.0f}")


def features(setting: Setting) -> Findings:
    """Log-mel features on the device against one CPU core."""
    student = setting.student()
    clips = setting.clips([10.0] * (4 if setting.tiny else 64))
    extractor = student.processor.feature_extractor
    audio = 10.0 * len(clips)

    def on_core() -> None:
        for clip in clips:
            student.features(clip)

    def on_device() -> None:
        options = {"sampling_rate": SAMPLE_RATE, "padding": "longest", "return_tensors": "pt"}
        extractor(clips, device=setting.device, **options)["input_features"].to(setting.device)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    core_seconds = statistics.median(seconds_taken(on_core, "cpu") for _ in range(3))
    torch.set_num_threads(threads)
    on_device()
    device_seconds = statistics.median(seconds_taken(on_device, setting.device) for _ in range(3))
    yield Finding("one core", f"{audio / core_seconds:.0f} s of audio a second")
    yield Finding(f"{setting.device}, {len(clips)} clips at once", f"{audio / device_seconds:.0f} s of audio a second")
    yield Finding("cores that one device replaces", f"{core_seconds / device_seconds:.1f}")


def largest_batch(setting: Setting) -> Findings:
    """The most utterances of 10 s and 40 tokens that fit into a micro-batch, by memory of the card."""
    if setting.device == "cpu":
        yield Finding("largest batch", "measured on a GPU only")
        return
    total = torch.cuda.get_device_properties(0).total_memory / 1e9
    precision = "no" if setting.tiny else "bf16"
    settings = OptimizationSettings(steps=10**9, batch_seconds=1e9, learning_rate=1e-12, mixed_precision=precision)
    for gigabytes in (size for size in CARD_GIGABYTES if size <= total * 1.05):
        torch.cuda.set_per_process_memory_fraction(min(gigabytes / total, 1.0))
        for name in ("sft", "opd"):
            most = _most_utterances(setting, name, settings)
            at_least = "at least " if most == MOST_UTTERANCES else ""
            shown = f"{at_least}{most} utterances" if most else "not even one utterance fits"
            yield Finding(f"{name}, {gigabytes} GB of tensors", shown)


def _most_utterances(setting: Setting, name: str, settings: OptimizationSettings) -> int:
    """Bisect the batch size to an eighth; 0 if a batch of one utterance does not fit."""
    try:
        student = setting.student()
        teacher = setting.teacher(setting.fast_dtype) if name == "opd" else None
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return 0
    objective_settings = ObjectiveSettings(max_new_tokens=40)
    stage = (
        SupervisedStage(student, None) if teacher is None else DistillationStage(student, teacher, objective_settings)
    )
    accelerator = accelerator_for(stage, settings)
    module, optimizers = distribute(accelerator, stage, settings)
    recognizers: list[Recognizer] = [student] if teacher is None else [student, teacher]

    def fits(count: int) -> bool:
        options = parse_options(["--utterances", str(count), "--seconds", "10", "--tokens", "40"])
        examples = noise_examples(recognizers, options)
        try:
            for step in (1, 2):  # the optimizer's moments exist from the second step on
                optimizer_step(accelerator, stage, module, optimizers, iter([examples]), settings, step, 0, 1.0)
            return True
        except torch.OutOfMemoryError:
            stage.zero_grad()
        torch.cuda.empty_cache()  # after the handler, because its error keeps tensors alive
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
