"""The one training loop: micro-batches in, optimizer steps out, whatever the stage.

Checkpoints, evaluation, signals and what processes tell each other stand here; what a step does stands in `step.py`.
Knows nothing of what a stage does.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from arkasr import processes
from arkasr.data.examples import Example
from arkasr.errors import InputError, Interrupted
from arkasr.train.checkpoint import Checkpoints, random_state, restore_random_state
from arkasr.train.continuation import Continuation
from arkasr.train.distribution import accelerator_for, spread, unsharded_weights
from arkasr.train.metrics import Metrics, MetricsLog
from arkasr.train.quarantine import Quarantine
from arkasr.train.schedule import rate_factor
from arkasr.train.settings import OptimizationSettings
from arkasr.train.signals import StopSignals
from arkasr.train.stage import Stage
from arkasr.train.step import StepOutcome, micro_batch_seed, optimizer_step
from arkasr.train.stream import BatchStream, UnreadableUtterance

Evaluation = Callable[[], dict[str, float]]
StepCallback = Callable[[int, dict[str, float]], None]


def train(
    stage: Stage,
    stream: BatchStream,
    settings: OptimizationSettings,
    folder: Path,
    *,
    seed: int,
    continues: Continuation | None = None,
    schedule_steps: int | None = None,
    evaluate: Evaluation | None = None,
    on_step: StepCallback | None = None,
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
        continues: where another stage has ended that this one goes on from; None = begin.
        schedule_steps: optimizer steps that the schedule spans, those of the stages before and after included; None =
            it ends with this stage.
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
    if len(set(processes.all_gather_text(stream.fingerprint))) > 1:
        raise InputError("the processes do not see the same training set; all must read the same manifest and audio")
    module, optimizers = spread(accelerator, stage, settings)
    checkpoints = Checkpoints(
        folder / "checkpoints", stage, [optimizer.optimizer for optimizer in optimizers], settings.keep_checkpoints
    )
    before = continues.steps_before if continues else 0
    schedule_steps = schedule_steps or before + settings.steps
    state: dict[str, Any] = {"step": 0, "skipped_in_a_row": 0}
    restored = checkpoints.restore(on_trouble)
    if restored:
        state, memory = restored
        if state.get("order") != seed:
            raise InputError(
                f"{folder}: its checkpoint is of another order of the data, as an older version drew it; finish the "
                "stage with that version, or remove the folder to train it anew"
            )
        stream.restore(state["data"])
        if memory:
            begun = state.get("under_way", {})
            stage.remember(memory, _of_this_process(begun, before + state["step"], stage, settings, seed))
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
    elif continues:
        ended = continues.begin(stage, [optimizer.optimizer for optimizer in optimizers], stream, on_trouble)
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(ended["scaler"])
    quarantine = Quarantine(
        folder / "quarantine.jsonl",
        len(stream.dataset),
        settings.max_quarantined_share,
        writes=processes.is_first_rank(),
    )
    logged = state["step"] - ("not_evaluated" in state)
    log = MetricsLog(folder, resumed_step=logged) if processes.is_first_rank() else None
    resumed_at_evaluation = evaluate is not None and "not_evaluated" in state
    if settings.sharding == "full" and (resumed_at_evaluation or stage.steps_ahead):
        with torch.no_grad():  # shares know their place only behind a forward pass of the whole
            module([], seed)
    if evaluate and resumed_at_evaluation:
        values = state["not_evaluated"] | _evaluated(stage, evaluate)
        if log:
            log.write(state["step"], values)
    skipped_in_a_row = state["skipped_in_a_row"]
    batches = _micro_batches(stage, stream, settings, range(before + state["step"], before + settings.steps), seed)
    saved = state["step"] if restored and "not_evaluated" not in state else None

    def save(step: int, state: dict[str, Any]) -> None:
        nonlocal saved
        saved = step
        if accelerator.scaler is not None:
            state["scaler"] = accelerator.scaler.state_dict()
        if stage.steps_ahead:
            state["under_way"] = _of_all_processes(stage.under_way())
        checkpoints.save(step, state | {"order": seed, "data": stream.state()}, stage.memory())

    with StopSignals() as signals, checkpoints:
        stage.stop_asked = signals.asked
        for step in range(state["step"] + 1, settings.steps + 1):
            position, drawn = stream.position, random_state()
            factor = rate_factor(before + step, schedule_steps, settings)
            outcome = optimizer_step(
                accelerator, stage, module, optimizers, batches, settings, before + step, seed, factor
            )
            told = _exchanged(outcome, stream, stage, signals)
            stopped_by = _first_signal(process["signal"] for process in told)
            if outcome.given_up:  # all is as before the step
                stream.position = position
                restore_random_state(drawn)
                if saved != step - 1:
                    save(step - 1, {"skipped_in_a_row": skipped_in_a_row})
                assert stopped_by is not None
                raise Interrupted(stopped_by, _stopped_behind(step - 1))
            merged = _merged(told)
            values = {name: value for name, value in merged.values().items() if math.isfinite(value)}
            with processes.raise_on_first_rank():
                quarantine.add([UnreadableUtterance(**item) for process in told for item in process["unreadable"]])
                if remark := stage.judge(merged):
                    on_trouble(f"step {step}: {remark}")
            for process in told:
                stage.learn_news(process["news"])
            stage.step_done()
            skipped_in_a_row = 0 if outcome.finite else skipped_in_a_row + 1
            if outcome.overflowed and accelerator.scaler is not None and accelerator.scaler.get_scale() > 1:
                skipped_in_a_row = 0  # a gradient scaler finds its scale by steps over infinity
            if skipped_in_a_row:
                on_trouble(f"step {step} skipped: its loss or gradient is not finite")
            if skipped_in_a_row == settings.max_skipped_steps:
                with processes.raise_on_first_rank():
                    raise InputError(_not_finite(step, skipped_in_a_row, told))
            state = {"skipped_in_a_row": skipped_in_a_row}
            if evaluate and _due(step, settings.evaluate_every, settings.steps):
                if stopped_by:  # there may be no time for it
                    state["not_evaluated"] = values
                else:
                    values |= _evaluated(stage, evaluate)
                    stopped_by = _first_signal(map(json.loads, processes.all_gather_text(json.dumps(signals.received))))
            if "not_evaluated" not in state:
                if log:
                    log.write(step, values)
                if on_step:
                    on_step(step, values)
            checkpoints.raise_if_failed()
            if stopped_by or _due(step, settings.checkpoint_every, settings.steps):
                save(step, state)
            if stopped_by:
                raise Interrupted(stopped_by, _stopped_behind(step))
    if log:
        log.close()


def _micro_batches(
    stage: Stage, stream: BatchStream, settings: OptimizationSettings, steps: range, seed: int
) -> Iterator[list[Example]]:
    """This process's batches of the steps to come, of which the stage is told as early as it wants to be.

    Args:
        stage: is told.
        stream: gives them.
        settings: say how many a step has.
        steps: done so far, and at the end of the stage, since the beginning of the schedule.
        seed: of the stage.
    """
    if not stage.steps_ahead:
        return iter(stream)

    def announce(number: int, batches: list[list[Example]]) -> None:
        step = steps.start + 1 + number
        if step <= steps.stop:
            stage.announce(list(zip(batches, _seeds(seed, step, settings), strict=True)))

    return stream.ahead(stage.steps_ahead, announce)


def _seeds(seed: int, step: int, settings: OptimizationSettings) -> list[int]:
    """Of this process's micro-batches of a step."""
    places = range(processes.rank(), processes.rank() + settings.accumulation, processes.world_size())
    return [micro_batch_seed(seed, step, place) for place in places]


def _of_this_process(
    under_way: dict[str, Any], done: int, stage: Stage, settings: OptimizationSettings, seed: int
) -> dict[str, Any]:
    """What was begun, by any process, for micro-batches that are now this one's."""
    steps = range(done + 1, done + 1 + stage.steps_ahead)
    mine = {str(number) for step in steps for number in _seeds(seed, step, settings)}
    return {number: begun for number, begun in under_way.items() if number in mine}


def _of_all_processes(mine: dict[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for text in processes.all_gather_text(json.dumps(mine)):
        merged |= json.loads(text)
    return merged


def _evaluated(stage: Stage, evaluate: Evaluation) -> dict[str, float]:
    stage.eval()
    with unsharded_weights(stage):
        return evaluate()


def _stopped_behind(step: int) -> str:
    return f"stopped behind step {step}, which is in a checkpoint"


def _first_signal(numbers: Iterable[int | None]) -> int | None:
    return next((number for number in numbers if number), None)


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def _exchanged(outcome: StepOutcome, stream: BatchStream, stage: Stage, signals: StopSignals) -> list[dict[str, Any]]:
    """What every process has to tell of a step, by rank."""
    mine = {
        "metrics": outcome.metrics.document(),
        "unreadable": [asdict(item) for item in stream.take_unreadable()],
        "news": stage.take_news(),
        "heard": [] if outcome.finite else outcome.heard,
        "signal": signals.received,
    }
    return [json.loads(text) for text in processes.all_gather_text(json.dumps(mine))]


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
