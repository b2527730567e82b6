"""The one training loop: micro-batches in, optimizer steps out, whatever the stage.

The loss of a step is normalised once, over all micro-batches and processes: gradients of sums are added up and divided
by the number of valid things before the optimizer sees them (specification objective, step 6). Knows nothing of what a
stage does.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from arkasr import processes
from arkasr.data.examples import Example
from arkasr.errors import InputError, Interrupted
from arkasr.train.checkpoint import Checkpoints, random_state, restore_random_state
from arkasr.train.distribution import accelerator_for, spread, whole_weights
from arkasr.train.metrics import Metrics, MetricsLog
from arkasr.train.quarantine import Quarantine
from arkasr.train.schedule import rate_factor
from arkasr.train.settings import OptimizationSettings
from arkasr.train.signals import StopSignals
from arkasr.train.stage import Stage, StageLoss
from arkasr.train.stream import BatchStream, Unheard

Evaluation = Callable[[], dict[str, float]]
StepListener = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class StepOutcome:
    """What an optimizer step came to.

    Attributes:
        metrics: of this process.
        finite: whether loss and gradient were; if not, the weights are as before the step. The same on every process.
        heard: ids of the utterances of this process.
        given_up: whether a process gave the step up, asked to stop; the weights are as before. The same on every
            process.
    """

    metrics: Metrics
    finite: bool
    heard: list[str]
    given_up: bool = False


def train(
    stage: Stage,
    stream: BatchStream,
    settings: OptimizationSettings,
    folder: Path,
    *,
    seed: int,
    evaluate: Evaluation | None = None,
    on_step: StepListener | None = None,
    on_trouble: Callable[[str], None] = lambda message: None,
) -> None:
    """Train a stage for `settings.steps` steps, continuing from the newest whole checkpoint in `folder`.

    Writes `metrics.jsonl`, TensorBoard events, `checkpoints/step-N` and, where utterances cannot be heard,
    `quarantine.jsonl` under `folder`; the trained weights stay in the stage's model.

    Args:
        stage: gives the loss.
        stream: gives this process's batches.
        settings: how to optimise.
        folder: the stage's folder in the run.
        seed: of augmentation and of anything else that is drawn.
        evaluate: figures on a development set, by metric name; called by every process.
        on_step: told of every step's figures.
        on_trouble: told in a line of what went wrong and was got over.

    Raises:
        InputError: too many steps in a row were not finite, too many utterances cannot be heard, or the stage judges
            that it is not to go on; raised by every process, and shown by the first one.
        Interrupted: a signal came; everything up to the step it names is in a checkpoint. A step that had to wait for
            something outside the process is given up.
    """
    accelerator = accelerator_for(stage, settings)
    torch.manual_seed(seed + processes.rank())
    if settings.activation_checkpointing:
        stage.model.gradient_checkpointing_enable({"use_reentrant": False})
    if len(set(processes.exchange(stream.fingerprint))) > 1:
        raise InputError("the processes do not see the same training set; all must read the same manifest and audio")
    module, optimizers = spread(accelerator, stage, settings)
    checkpoints = Checkpoints(
        folder / "checkpoints", stage, [optimizer.optimizer for optimizer in optimizers], settings.keep_checkpoints
    )
    state: dict[str, Any] = {"step": 0, "skipped_in_a_row": 0}
    if restored := checkpoints.restore(on_trouble):
        state, memory = restored
        stream.restore(state["data"])
        if memory:
            stage.remember(memory, state.get("under_way", {}))
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
    quarantine = Quarantine(
        folder / "quarantine.jsonl",
        len(stream.dataset),
        settings.max_quarantined_share,
        writes=processes.is_first(),
    )
    log = MetricsLog(folder, resumed_step=state["step"]) if processes.is_first() else None
    resumed_at_evaluation = evaluate is not None and "not_evaluated" in state
    if settings.sharding == "full" and (resumed_at_evaluation or stage.steps_ahead):
        with torch.no_grad():  # shares know their place only behind a forward pass of the whole
            module([], seed)
    if evaluate and resumed_at_evaluation:
        values = state["not_evaluated"] | _evaluated(stage, evaluate)
        if log:
            log.write(state["step"], values)
    skipped_in_a_row = state["skipped_in_a_row"]
    batches = _micro_batches(stage, stream, settings, state["step"], seed)
    saved = state["step"] if restored and "not_evaluated" not in state else None

    def save(step: int, state: dict[str, Any]) -> None:
        nonlocal saved
        saved = step
        if accelerator.scaler is not None:
            state["scaler"] = accelerator.scaler.state_dict()
        if stage.steps_ahead:
            state["under_way"] = _of_all_processes(stage.under_way())
        checkpoints.save(step, state | {"data": stream.state()}, stage.memory())

    with StopSignals() as signals:
        stage.stop_asked = signals.asked
        for step in range(state["step"] + 1, settings.steps + 1):
            position, drawn = stream.position, random_state()
            outcome = optimizer_step(accelerator, stage, module, optimizers, batches, settings, step, seed)
            told = _exchanged(outcome, stream, stage, signals)
            stopped_by = _first_signal(process["signal"] for process in told)
            if outcome.given_up:  # all is as before the step
                stream.position = position
                restore_random_state(drawn)
                if saved != step - 1:
                    save(step - 1, {"skipped_in_a_row": skipped_in_a_row})
                checkpoints.finish()
                assert stopped_by is not None
                raise Interrupted(stopped_by, _stopped_behind(step - 1))
            merged = _merged(told)
            values = {name: value for name, value in merged.values().items() if math.isfinite(value)}
            with processes.said_once():
                quarantine.add([Unheard(**item) for process in told for item in process["unheard"]])
                stage.judge(merged)
            for process in told:
                stage.learn_news(process["news"])
            skipped_in_a_row = 0 if outcome.finite else skipped_in_a_row + 1
            if accelerator.scaler is not None and accelerator.scaler.get_scale() > 1:
                skipped_in_a_row = 0  # a gradient scaler finds its scale by steps over infinity
            if skipped_in_a_row:
                on_trouble(f"step {step} skipped: its loss or gradient is not finite")
            if skipped_in_a_row == settings.max_skipped_steps:
                checkpoints.finish()
                with processes.said_once():
                    raise InputError(_not_finite(step, skipped_in_a_row, told))
            state = {"skipped_in_a_row": skipped_in_a_row}
            if evaluate and _due(step, settings.evaluate_every, settings.steps):
                if stopped_by:  # there may be no time for it
                    state["not_evaluated"] = values
                else:
                    values |= _evaluated(stage, evaluate)
                    stopped_by = _first_signal(map(json.loads, processes.exchange(json.dumps(signals.received))))
            if "not_evaluated" not in state:
                if log:
                    log.write(step, values)
                if on_step:
                    on_step(step, values)
            checkpoints.look()
            if stopped_by or _due(step, settings.checkpoint_every, settings.steps):
                save(step, state)
            if stopped_by:
                checkpoints.finish()
                raise Interrupted(stopped_by, _stopped_behind(step))
        checkpoints.finish()
    if log:
        log.close()


def _micro_batches(
    stage: Stage, stream: BatchStream, settings: OptimizationSettings, done: int, seed: int
) -> Iterator[list[Example]]:
    """This process's batches behind so many steps, of which the stage is told as early as it wants to be."""
    if not stage.steps_ahead:
        return iter(stream)

    def announce(number: int, batches: list[list[Example]]) -> None:
        step = done + 1 + number
        if step <= settings.steps:
            places = range(processes.rank(), processes.rank() + settings.accumulation, processes.count())
            seeds = [micro_batch_seed(seed, step, place) for place in places]
            stage.announce(list(zip(batches, seeds, strict=True)))

    return stream.ahead(stage.steps_ahead, announce)


def _of_all_processes(mine: dict[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for text in processes.exchange(json.dumps(mine)):
        merged |= json.loads(text)
    return merged


def _evaluated(stage: Stage, evaluate: Evaluation) -> dict[str, float]:
    stage.eval()
    with whole_weights(stage):
        return evaluate()


def _stopped_behind(step: int) -> str:
    return f"stopped behind step {step}, which is in a checkpoint"


def _first_signal(numbers: Iterable[int | None]) -> int | None:
    return next((number for number in numbers if number), None)


def optimizer_step(
    accelerator: Accelerator,
    stage: Stage,
    module: Any,
    optimizers: Sequence[Any],
    batches: Iterator[list[Example]],
    settings: OptimizationSettings,
    step: int,
    seed: int,
) -> StepOutcome:
    """One step down the mean over all valid things of `settings.accumulation` micro-batches, wherever they are."""
    stage.train()
    metrics = Metrics()
    heard: list[str] = []
    total = 0.0
    given_up = False
    count = torch.zeros((), device=accelerator.device, dtype=torch.long)
    firsts = range(0, settings.accumulation, accelerator.num_processes)
    for first in firsts:
        with stage.clock("data"):
            # As many passes as on other processes, which may not have given up.
            examples = [] if given_up else next(batches)
        heard += [example.utterance.id for example in examples]
        with nullcontext() if first == firsts[-1] else accelerator.no_sync(module):
            loss: StageLoss = module(examples, micro_batch_seed(seed, step, first + accelerator.process_index))
            with stage.clock("backward"):
                accelerator.backward(loss.total)
        given_up |= loss.given_up
        total += loss.total.item()
        count += loss.count
        metrics.merge(loss.metrics)
        _count_padding(metrics, examples)
    metrics.mean("loss", total, count)
    with stage.clock("optimizer"):
        not_finite = torch.tensor(not math.isfinite(total), device=count.device)
        told = torch.stack((count, not_finite.long(), torch.full_like(count, given_up)))
        things, strange, stopped = accelerator.reduce(told)
        if stopped:
            stage.zero_grad()
            return StepOutcome(metrics, finite=True, heard=heard, given_up=True)
        # Wrapped modules average gradients over processes; the mean asked for is over things.
        scale = (accelerator.num_processes / things.clamp(min=1)).item()
        for parameter in stage.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
        norm = accelerator.clip_grad_norm_(stage.parameters(), settings.max_grad_norm).item()
        finite = math.isfinite(norm) and not strange
        factor = rate_factor(step, settings)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["highest_lr"] * factor
            # A gradient scaler looks for itself, and must see the step to lower its scale.
            if finite or accelerator.scaler is not None:
                optimizer.step()
            optimizer.zero_grad()
        if finite:
            stage.updated()
    metrics.mean("train/gradient_norm", norm, 1)
    metrics.mean("train/learning_rate", settings.learning_rate * factor, 1)
    metrics.mean("train/skipped", not finite, 1)
    for phase, seconds in stage.clock.reset().items():
        metrics.mean(f"time/{phase}", seconds, 1)
    return StepOutcome(metrics, finite, heard)


def micro_batch_seed(seed: int, step: int, place: int) -> int:
    """A seed of its own for every micro-batch of a step, whichever process has it."""
    thousands, place = divmod(place, 1_009)
    return (((seed * 1_000_003 + step) * 1_009 + place) * 4_099 + thousands) % 2**63


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def _count_padding(metrics: Metrics, examples: list[Example]) -> None:
    for features in zip(*(example.features.values() for example in examples), strict=True):
        frames = [clip.shape[1] for clip in features]
        padded = max(frames) * len(frames)
        metrics.mean("train/padding_share", padded - sum(frames), padded)
        metrics.mean("train/utterances", len(frames), 1)
        return


def _exchanged(outcome: StepOutcome, stream: BatchStream, stage: Stage, signals: StopSignals) -> list[dict[str, Any]]:
    """What every process has to tell of a step, by rank."""
    mine = {
        "metrics": outcome.metrics.document(),
        "unheard": [asdict(item) for item in stream.take_unheard()],
        "news": stage.take_news(),
        "heard": [] if outcome.finite else outcome.heard,
        "signal": signals.received,
    }
    return [json.loads(text) for text in processes.exchange(json.dumps(mine))]


def _merged(told: Sequence[dict[str, Any]]) -> Metrics:
    merged = Metrics()
    for process in told:
        merged.merge(Metrics.of(process["metrics"]))
    return merged


def _not_finite(step: int, in_a_row: int, told: Sequence[dict[str, Any]]) -> str:
    heard = ", ".join(name for process in told for name in process["heard"])
    return (
        f"loss or gradient were not finite in {in_a_row} steps in a row, the last of them step {step} on utterances "
        f"{heard}; lower learning_rate, raise warmup_steps, or leave them out; the weights are those of before"
    )
