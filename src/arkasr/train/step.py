"""One optimizer step: micro-batches forth and back, one normalisation, one update.

Gradients of sums are added up over all micro-batches and processes and divided by the number of valid things before the
optimizer sees them (specification objective, step 6). Knows nothing of what a stage does, nor of files.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator

from arkasr.data.examples import Example
from arkasr.recognizers.precision import widest_float
from arkasr.train.metrics import Metrics
from arkasr.train.settings import OptimizationSettings
from arkasr.train.stage import Stage, StageLoss


@dataclass(frozen=True)
class StepOutcome:
    """What an optimizer step came to.

    Attributes:
        metrics: of this process.
        finite: whether loss and gradient were; if not, the weights are as before the step. The same on every process.
        heard: ids of the utterances of this process.
        overflowed: whether it was the gradient that was not finite.
        given_up: whether a process gave the step up, asked to stop; the weights are as before. The same on every
            process.
    """

    metrics: Metrics
    finite: bool
    heard: list[str]
    overflowed: bool = False
    given_up: bool = False


def optimizer_step(
    accelerator: Accelerator,
    stage: Stage,
    module: Any,
    optimizers: Sequence[Any],
    batches: Iterator[list[Example]],
    settings: OptimizationSettings,
    step: int,
    seed: int,
    rate_factor: float,
) -> StepOutcome:
    """One step down the mean over all valid things of `settings.accumulation` micro-batches, wherever they are.

    Args:
        accelerator: of the devices and the precision.
        stage: gives the loss.
        module: the stage as it lies on the processes.
        optimizers: of its weights.
        batches: this process's.
        settings: how to optimise.
        step: since the beginning of the schedule, counted from 1.
        seed: with the step, decides what is drawn.
        rate_factor: share of the highest learning rate.
    """
    stage.train()
    metrics = Metrics()
    heard: list[str] = []
    total = torch.zeros((), device=accelerator.device, dtype=widest_float(accelerator.device))
    count = torch.zeros((), device=accelerator.device, dtype=torch.long)
    firsts = range(0, settings.accumulation, accelerator.num_processes)
    for first in firsts:
        with stage.clock("data"):
            examples = next(batches)
        heard += [example.utterance.id for example in examples]
        with nullcontext() if first == firsts[-1] else accelerator.no_sync(module):
            loss: StageLoss = module(examples, micro_batch_seed(seed, step, first + accelerator.process_index))
            with stage.clock("backward"):
                accelerator.backward(loss.total)
        if _any_process(accelerator, loss.given_up):
            stage.zero_grad()
            return StepOutcome(metrics, finite=True, heard=heard, given_up=True)
        total += loss.total.detach()
        count += loss.count
        metrics.merge(loss.metrics)
        _count_padding(metrics, examples)
    metrics.mean("loss", total, count)
    with stage.clock("optimizer"):
        things, strange = accelerator.reduce(torch.stack((count, (~total.isfinite()).long())))
        # Wrapped modules average gradients over processes; the mean asked for is over things.
        scale = accelerator.num_processes / things.clamp(min=1)
        for parameter in stage.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
        norm = accelerator.clip_grad_norm_(stage.parameters(), settings.max_grad_norm).item()
        finite = math.isfinite(norm) and not strange
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["highest_lr"] * rate_factor
            if finite:
                optimizer.step()
            optimizer.zero_grad()
        if finite:
            stage.updated()
        elif accelerator.scaler is not None:
            # Clipping has shown it the gradients. Left to step by itself, it would look at these and not at the loss.
            accelerator.scaler.update()
    metrics.mean("train/gradient_norm", norm, 1)
    metrics.mean("train/learning_rate", settings.learning_rate * rate_factor, 1)
    metrics.mean("train/skipped", not finite, 1)
    for phase, seconds in stage.clock.reset().items():
        metrics.mean(f"time/{phase}", seconds, 1)
    return StepOutcome(metrics, finite, heard, overflowed=not math.isfinite(norm))


def _any_process(accelerator: Accelerator, flag: bool) -> bool:
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(flag, device=accelerator.device, dtype=torch.long)))


def micro_batch_seed(seed: int, step: int, place: int) -> int:
    """A seed of its own for every micro-batch of a step, whichever process has it."""
    thousands, place = divmod(place, 1_009)
    return (((seed * 1_000_003 + step) * 1_009 + place) * 4_099 + thousands) % 2**63


def _count_padding(metrics: Metrics, examples: list[Example]) -> None:
    for features in zip(*(example.features.values() for example in examples), strict=True):
        frames = [clip.shape[1] for clip in features]
        padded = max(frames) * len(frames)
        metrics.mean("train/padding_share", padded - sum(frames), padded)
        metrics.mean("train/utterances", len(frames), 1)
        return
