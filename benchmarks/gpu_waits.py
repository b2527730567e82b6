"""Part of `benchmarks.gpu` that counts how often the host waits for the device."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from benchmarks.gpu_setting import CLIP_SECONDS, Finding, Findings, Setting, prompts_of
from benchmarks.opd_step import parse_options
from benchmarks.random_models import noise_examples

from arkasr.recognizers.decoding import decode
from arkasr.train.settings import ObjectiveSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage

Result = TypeVar("Result")


def synchronisations(setting: Setting) -> Findings:
    """How often the host waits for the device in a rollout and in a training step, as PyTorch counts it."""
    if setting.device == "cpu":
        yield Finding("waits for the device", "counted on a GPU only; tests count them on a simulated one")
        return
    student, teacher = setting.student(torch.bfloat16), setting.teacher(torch.bfloat16)
    prompts = student.embed_audio(prompts_of(student, setting.clips(CLIP_SECONDS)))
    rollout = partial(decode, student, prompts, max_new_tokens=16)
    rollout()
    waits, transcripts = count_waits(rollout)
    yield Finding(f"rollout of {transcripts.passes} passes", f"{waits} waits", waits <= transcripts.passes + 1)
    options = parse_options(["--utterances", "6", "--seconds", "6", "--tokens", "12"])
    examples = noise_examples([student, teacher], options)
    stages = {
        "sft": SupervisedStage(student, None),
        "opd": DistillationStage(student, teacher, ObjectiveSettings(max_new_tokens=16)),
    }
    for name, stage in stages.items():
        stage(examples, seed=0).total.backward()
        waits, loss = count_waits(partial(stage, examples, seed=0))
        passes = loss.metrics.values().get("rollout/passes")
        of_rollout = f", {passes:.0f} of them for passes of the rollout" if passes else ""
        yield Finding(f"{name}: loss of a micro-batch", f"{waits} waits{of_rollout}")
        waits, _ = count_waits(loss.total.backward)
        yield Finding(f"{name}: its gradient", f"{waits} waits")


def count_waits(function: Callable[[], Result]) -> tuple[int, Result]:
    """Call `function`; PyTorch warns whenever the host waits for the GPU."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            result = function()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught), result
