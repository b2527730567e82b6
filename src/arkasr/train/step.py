"""One optimizer step: accumulate gradients over micro-batches, normalise and clip them, update the weights.

Gradients of summed losses are divided once by the number of valid positions of all micro-batches and processes
(docs/objective.md, step 6). This module knows nothing of a stage's loss or of files.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from arkasr.data.examples import Example
from arkasr.recognizers.precision import widest_float
from arkasr.train.metrics import Metrics
from arkasr.train.parts import trained_parameters
from arkasr.train.settings import OptimizationSettings
from arkasr.train.stage import Stage, StageLoss


@dataclass(frozen=True)
class StepOutcome:
    """The result of an optimizer step.

    Attributes:
        metrics: of this process.
        utterances: ids of this process's utterances.
        finite: whether loss and gradient were finite; else the weights did not change. The same on every process.
        gradient_nonfinite: whether the gradient was not finite.
        interrupted: whether a process stopped waiting for its teacher because a stop was requested; the weights did not
            change. The same on every process.
    """

    metrics: Metrics
    utterances: list[str]
    finite: bool = True
    gradient_nonfinite: bool = False
    interrupted: bool = False


@dataclass
class _Accumulated:
    """The sums over the micro-batches of this process.

    Attributes:
        total: summed loss, scalar.
        count: valid positions, int64 scalar.
        utterances: ids of the utterances.
        interrupted: as in `StepOutcome`.
    """

    total: Tensor
    count: Tensor
    metrics: Metrics = field(default_factory=Metrics)
    utterances: list[str] = field(default_factory=list)
    interrupted: bool = False


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
    """Take one step.

    The loss is the mean over the valid positions of `settings.accumulation` micro-batches, counted over all processes.

    Args:
        accelerator: sets devices and precision.
        stage: computes the loss.
        module: the stage as `distribute` wrapped it.
        optimizers: of the stage's weights.
        batches: this process's micro-batches.
        settings: accumulation, clipping and learning rate.
        step: counted from 1 since the schedule began.
        seed: with the step, determines everything random.
        rate_factor: the step's learning rate as a share of the highest.
    """
    stage.train()
    accumulated = _accumulate(accelerator, stage, module, batches, settings.accumulation, step, seed)
    metrics = accumulated.metrics
    if accumulated.interrupted:
        stage.zero_grad()
        return StepOutcome(metrics, accumulated.utterances, interrupted=True)
    metrics.mean("loss", accumulated.total, accumulated.count)
    with stage.clock("optimizer"):
        norm, finite = _normalise_and_clip(accelerator, stage, accumulated, settings.max_grad_norm)
        _apply(accelerator, stage, optimizers, rate_factor, finite=finite)
    metrics.mean("train/gradient_norm", norm, 1)
    metrics.mean("train/learning_rate", settings.learning_rate * rate_factor, 1)
    metrics.mean("train/skipped", not finite, 1)
    metrics.mean("train/parameters", trained_parameters(stage), 1)
    for phase, seconds in stage.clock.reset().items():
        metrics.mean(f"time/{phase}", seconds, 1)
    return StepOutcome(metrics, accumulated.utterances, finite, gradient_nonfinite=not math.isfinite(norm))


def _accumulate(
    accelerator: Accelerator,
    stage: Stage,
    module: Any,
    batches: Iterator[list[Example]],
    accumulation: int,
    step: int,
    seed: int,
) -> _Accumulated:
    """Forward and backward passes of this process's micro-batches; ends early if a process is interrupted."""
    accumulated = _Accumulated(
        total=torch.zeros((), device=accelerator.device, dtype=widest_float(accelerator.device)),
        count=torch.zeros((), device=accelerator.device, dtype=torch.long),
    )
    rounds = range(0, accumulation, accelerator.num_processes)
    for first in rounds:
        with stage.clock("data"):
            examples = next(batches)
        accumulated.utterances += [example.utterance.id for example in examples]
        with nullcontext() if first == rounds[-1] else accelerator.no_sync(module):
            loss: StageLoss = module(examples, micro_batch_seed(seed, step, first + accelerator.process_index))
            with stage.clock("backward"):
                accelerator.backward(loss.total)
        if _on_any_process(accelerator, loss.interrupted):
            accumulated.interrupted = True
            break
        accumulated.total += loss.total.detach()
        accumulated.count += loss.count
        accumulated.metrics.merge(loss.metrics)
        _count_padding(accumulated.metrics, examples)
    return accumulated


def _normalise_and_clip(
    accelerator: Accelerator, stage: Stage, accumulated: _Accumulated, max_norm: float
) -> tuple[float, bool]:
    """Divide the gradients by the valid positions of all processes, and clip them.

    Returns:
        The gradient norm before clipping, and whether the losses of all processes and the norm are finite.
    """
    nonfinite = (~accumulated.total.isfinite()).long()
    valid_count, nonfinite_ranks = accelerator.reduce(torch.stack((accumulated.count, nonfinite)))
    # DDP and FSDP average gradients over processes. The mean over positions needs their sum.
    scale = accelerator.num_processes / valid_count.clamp(min=1)
    for parameter in stage.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(scale)
    norm = accelerator.clip_grad_norm_(stage.parameters(), max_norm).item()
    return norm, math.isfinite(norm) and not nonfinite_ranks


def _apply(
    accelerator: Accelerator, stage: Stage, optimizers: Sequence[Any], rate_factor: float, *, finite: bool
) -> None:
    """Update the weights if the step is finite, and clear the gradients."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["highest_lr"] * rate_factor
        if finite:
            optimizer.step()
        optimizer.zero_grad()
    if finite:
        stage.on_weights_changed()
    elif accelerator.scaler is not None:
        # Clipping already recorded infinite gradients in GradScaler, and `update` lowers the scale for them. `step` is
        # not called, because it would update the weights when the gradient is finite but the loss is not.
        accelerator.scaler.update()


def _on_any_process(accelerator: Accelerator, flag: bool) -> bool:
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(flag, device=accelerator.device, dtype=torch.long)))


def micro_batch_seed(seed: int, step: int, index: int) -> int:
    """The seed of a step's micro-batch, unique and independent of the process that computes it.

    Args:
        seed: of the stage.
        step: counted from 1 since the schedule began.
        index: of the micro-batch in the step, over all processes.
    """
    high, low = divmod(index, 1_009)
    return (((seed * 1_000_003 + step) * 1_009 + low) * 4_099 + high) % 2**63


def _count_padding(metrics: Metrics, examples: list[Example]) -> None:
    if not examples:
        return
    frontend = next(iter(examples[0].features))
    frames = [example.features[frontend].shape[1] for example in examples]
    padded = max(frames) * len(frames)
    metrics.mean("train/padding_share", padded - sum(frames), padded)
    metrics.mean("train/utterances", len(frames), 1)
