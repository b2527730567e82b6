"""The one training loop: micro-batches in, optimizer steps out, whatever the stage.

The loss of a step is normalised once, over all micro-batches and processes: gradients of sums are added up and divided
by the number of valid things before the optimizer sees them (specification objective, step 6). Knows nothing of what a
stage does.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from arkasr.data.examples import Example
from arkasr.errors import InputError
from arkasr.train.checkpoint import drop_old_checkpoints, load_checkpoint, newest_checkpoint, save_checkpoint
from arkasr.train.metrics import Metrics, MetricsLog
from arkasr.train.optimizer import build_optimizers
from arkasr.train.schedule import rate_factor
from arkasr.train.settings import OptimizationSettings
from arkasr.train.stage import Stage, StageLoss
from arkasr.train.stream import BatchStream

Evaluation = Callable[[], dict[str, float]]
StepListener = Callable[[int, dict[str, float]], None]


def train(
    stage: Stage,
    stream: BatchStream,
    settings: OptimizationSettings,
    folder: Path,
    *,
    seed: int,
    evaluate: Evaluation | None = None,
    on_step: StepListener | None = None,
    accelerator: Accelerator | None = None,
) -> None:
    """Train a stage for `settings.steps` steps, continuing from the newest checkpoint in `folder`.

    Writes `metrics.jsonl`, TensorBoard events and `checkpoints/step-N` under `folder`; the trained weights stay in
    the stage's model.

    Args:
        stage: gives the loss.
        stream: gives the batches.
        settings: how to optimise.
        folder: the stage's folder in the run.
        seed: of augmentation and of anything else that is drawn.
        evaluate: figures on a development set, by metric name.
        on_step: told of every step's figures.
        accelerator: devices, processes, precision; None = made from `settings`.
    """
    accelerator = accelerator or Accelerator(mixed_precision=settings.mixed_precision)
    torch.manual_seed(seed)
    if settings.activation_checkpointing:
        stage.model.gradient_checkpointing_enable({"use_reentrant": False})
    module, *optimizers = accelerator.prepare(stage, *build_optimizers(stage, settings))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["highest_lr"] = group["lr"]
    checkpoints = folder / "checkpoints"
    first_step = 1
    if newest := newest_checkpoint(checkpoints):
        state, memory = load_checkpoint(newest, module, [optimizer.optimizer for optimizer in optimizers])
        stream.restore(state["data"])
        if memory:
            stage.remember(memory)
        first_step = state["step"] + 1
    log = MetricsLog(folder, resumed_step=first_step - 1) if accelerator.is_main_process else None
    batches = iter(stream)
    for step in range(first_step, settings.steps + 1):
        metrics = optimizer_step(accelerator, stage, module, optimizers, batches, settings, step, seed)
        values = _gathered(metrics)
        if evaluate and _due(step, settings.evaluate_every, settings.steps):
            stage.eval()
            values |= evaluate()
        if log:
            log.write(step, values)
        if on_step:
            on_step(step, values)
        if _due(step, settings.checkpoint_every, settings.steps):
            save_checkpoint(
                checkpoints,
                step,
                module,
                [optimizer.optimizer for optimizer in optimizers],
                {"data": stream.state()},
                stage.memory(),
            )
            if accelerator.is_main_process:
                drop_old_checkpoints(checkpoints, settings.keep_checkpoints)
    if log:
        log.close()


def optimizer_step(
    accelerator: Accelerator,
    stage: Stage,
    module: Any,
    optimizers: Sequence[Any],
    batches: Iterator[list[Example]],
    settings: OptimizationSettings,
    step: int,
    seed: int,
) -> Metrics:
    """One step down the mean over all valid things of `settings.accumulation` micro-batches and all processes.

    Raises:
        InputError: the loss is not finite; the weights are as before the step.
    """
    stage.train()
    metrics = Metrics()
    total = 0.0
    count = torch.zeros((), device=accelerator.device, dtype=torch.long)
    for place in range(settings.accumulation):
        with stage.clock("data"):
            examples = next(batches)
        last = place == settings.accumulation - 1
        with nullcontext() if last else accelerator.no_sync(module):
            loss: StageLoss = module(examples, micro_batch_seed(seed, step, place, accelerator.process_index))
            with stage.clock("backward"):
                accelerator.backward(loss.total)
        total += loss.total.item()
        count += loss.count
        metrics.merge(loss.metrics)
        _count_padding(metrics, examples)
    if not math.isfinite(total):
        raise InputError(
            f"the loss of step {step} is not finite; lower learning_rate or raise warmup_steps; "
            "the last checkpoint is from before it"
        )
    metrics.mean("loss", total, count)
    with stage.clock("optimizer"):
        # Wrapped modules average gradients over processes; the mean asked for is over things.
        scale = accelerator.num_processes / accelerator.reduce(count).clamp(min=1)
        for parameter in stage.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scale.to(parameter.grad.dtype))
        norm = accelerator.clip_grad_norm_(stage.parameters(), settings.max_grad_norm)
        factor = rate_factor(step, settings)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["highest_lr"] * factor
            optimizer.step()
            optimizer.zero_grad()
    metrics.mean("train/gradient_norm", norm, 1)
    metrics.mean("train/learning_rate", settings.learning_rate * factor, 1)
    for phase, seconds in stage.clock.reset().items():
        metrics.mean(f"time/{phase}", seconds, 1)
    return metrics


def micro_batch_seed(seed: int, step: int, place: int, rank: int) -> int:
    """A seed of its own for every micro-batch of every process."""
    return (((seed * 1_000_003 + step) * 1_009 + place) * 4_099 + rank) % 2**63


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def _count_padding(metrics: Metrics, examples: list[Example]) -> None:
    for features in zip(*(example.features.values() for example in examples), strict=True):
        frames = [clip.shape[1] for clip in features]
        padded = max(frames) * len(frames)
        metrics.mean("train/padding_share", padded - sum(frames), padded)
        metrics.mean("train/utterances", len(frames), 1)
        return


def _gathered(metrics: Metrics) -> dict[str, float]:
    merged = Metrics()
    for rank_metrics in gather_object([metrics]):
        merged.merge(rank_metrics)
    return merged.values()
