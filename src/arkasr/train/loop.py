"""The training loop of every stage: micro-batches in, trained weights, metrics and checkpoints out.

It restores, checks every step, evaluates, logs, saves and stops. `step.py` computes a step. This module knows nothing
of a stage's loss.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from arkasr import processes
from arkasr.data.examples import Example
from arkasr.errors import InputError, Interrupted
from arkasr.train.checkpoint import Checkpoints, random_state, restore_random_state
from arkasr.train.continuation import Continuation
from arkasr.train.distribution import accelerator_for, distribute, unsharded_weights
from arkasr.train.metrics import Metrics, MetricsLog
from arkasr.train.micro_batches import micro_batches, pending_rollouts_of_all_ranks, pending_rollouts_of_this_rank
from arkasr.train.quarantine import Quarantine
from arkasr.train.schedule import rate_factor
from arkasr.train.settings import OptimizationSettings
from arkasr.train.signals import StopSignals
from arkasr.train.skipped_steps import count_skipped
from arkasr.train.stage import Stage
from arkasr.train.step import StepOutcome, optimizer_step
from arkasr.train.step_report import StepReport, all_gather_reports, first_signal, merged_metrics
from arkasr.train.stream import BatchStream
from arkasr.train.training_state import TrainingState

Evaluation = Callable[[], dict[str, float]]
StepCallback = Callable[[int, dict[str, float]], None]
WarningCallback = Callable[[str], None]


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
    on_warning: WarningCallback = lambda message: None,
) -> None:
    """Train a stage for `settings.steps` steps, from the newest intact checkpoint in `folder` if there is one.

    Writes `metrics.jsonl`, TensorBoard events and `checkpoints/step-N` into `folder`, and `quarantine.jsonl` if
    utterances cannot be read. The stage's model holds the trained weights.

    Args:
        stage: the model and its loss.
        stream: this process's micro-batches.
        settings: of the optimization.
        folder: the stage's folder in the run.
        seed: of augmentation, sampling and everything else that is random.
        continues: the finished stage that this one continues; None = a new schedule.
        schedule_steps: optimizer steps of the whole schedule, including stages before and after; None = the schedule
            ends with this stage.
        evaluate: metrics on a development set, by name; every process calls it.
        on_step: called with the number and the metrics of every step, unless a stop signal postpones its evaluation.
        on_warning: called with a one-line warning when training goes on after a problem.

    Raises:
        InputError: the device does not support the precision. The processes have different training sets. All
            checkpoints are damaged, or the newest intact one is of an older version or of another training set. The
            last checkpoint of the continued stage is missing or damaged. Too many steps in a row were not finite. Too
            many utterances cannot be read. The settings name a part that the model does not have. A line of the
            manifest cannot be read. The stage's `check_metrics` failed.
        OSError: a checkpoint could not be written.
        Interrupted: a stop signal arrived. A checkpoint holds everything up to the step that the message names. A step
            that waited for its teacher is undone.
    """
    loop = _TrainingLoop(
        stage, stream, settings, folder, seed, continues, schedule_steps, evaluate, on_step, on_warning
    )
    loop.restore()
    loop.open_outputs()
    loop.initialise_shards()
    loop.make_up_evaluation()
    loop.run()


@dataclass
class _TrainingLoop:
    """The steps of a stage. Its fields are the arguments of `train`; its other attributes are listed here.

    Attributes:
        state: the progress that a checkpoint saves.
        saved_step: step of the newest checkpoint; equal to `state.step` = nothing new to save. None = no checkpoint, or
            a restored one whose step is not evaluated yet.
        steps_before: optimizer steps of the schedule before this stage.
        accelerator: devices and precision.
        module: the stage as `distribute` wrapped it.
        optimizers: of the stage's weights.
        checkpoints: those of this stage.
        quarantine: unreadable utterances; exists after `open_outputs`.
        log: metrics of every step; None on other processes than the first; exists after `open_outputs`.
    """

    stage: Stage
    stream: BatchStream
    settings: OptimizationSettings
    folder: Path
    seed: int
    continues: Continuation | None
    schedule_steps: int | None
    evaluate: Evaluation | None
    on_step: StepCallback | None
    on_warning: WarningCallback

    def __post_init__(self) -> None:
        self.steps_before = self.continues.steps_before if self.continues else 0
        self.accelerator = accelerator_for(self.stage, self.settings)
        torch.manual_seed(self.seed + processes.rank())
        if self.settings.activation_checkpointing:
            self.stage.model.gradient_checkpointing_enable({"use_reentrant": False})
            # Transformers makes embeddings and the encoder's first convolution require a gradient. That is needed only
            # for `use_reentrant=True`, and would send the backward pass through a frozen encoder.
            self.stage.model.disable_input_require_grads()
        if len(set(processes.all_gather(self.stream.fingerprint))) > 1:
            raise InputError(
                "the processes do not see the same training set; all must read the same manifest and audio"
            )
        self.module, self.optimizers = distribute(self.accelerator, self.stage, self.settings)
        self.checkpoints = Checkpoints(
            self.folder / "checkpoints", self.stage, self._torch_optimizers(), self.settings.keep_checkpoints
        )
        self.state = TrainingState(data_seed=self.seed)
        self.saved_step: int | None = None

    def restore(self) -> None:
        """Load the newest intact checkpoint, or else the last checkpoint of the stage that this stage continues."""
        restored = self.checkpoints.restore(self.on_warning)
        if restored:
            self.state, extra_state = restored
            self._restore_data_and_rollouts(extra_state)
            self._load_scaler(self.state)
            if self.state.unevaluated_metrics is None:
                self.saved_step = self.state.step
        elif self.continues:
            previous_state = self.continues.restore(self.stage, self._torch_optimizers(), self.stream, self.on_warning)
            self._load_scaler(previous_state)

    def open_outputs(self) -> None:
        """Open the quarantine and, in the first process, the metrics log."""
        first_rank = processes.is_first_rank()
        self.quarantine = Quarantine(
            self.folder / "quarantine.jsonl",
            len(self.stream.dataset),
            self.settings.max_quarantined_share,
            writes=first_rank,
        )
        logged_step = self.state.step - (self.state.unevaluated_metrics is not None)
        self.log = MetricsLog(self.folder, resumed_step=logged_step) if first_rank else None

    def initialise_shards(self) -> None:
        """Run FSDP's first forward pass if the model generates or is evaluated before the first step."""
        evaluates = self.state.unevaluated_metrics is not None and self.evaluate is not None
        if self.settings.sharding == "full" and (evaluates or self.stage.prefetch_steps):
            with torch.no_grad():  # FSDP is initialised only after one full forward pass
                self.module([], self.seed)

    def make_up_evaluation(self) -> None:
        """Evaluate and log the checkpoint's step if a stop request came before its evaluation."""
        metrics, self.state.unevaluated_metrics = self.state.unevaluated_metrics, None
        if metrics is not None and self.evaluate is not None:
            metrics |= self._evaluated(self.evaluate)
            if self.log:
                self.log.write(self.state.step, metrics)

    def run(self) -> None:
        """Take the remaining steps."""
        steps = range(self.steps_before + self.state.step, self.steps_before + self.settings.steps)
        batches = micro_batches(self.stage, self.stream, self.settings, steps, self.seed)
        with StopSignals() as signals, self.checkpoints:
            self.stage.stop_requested = signals.stop_requested
            while self.state.step < self.settings.steps:
                self._step(batches, signals)
        if self.log:
            self.log.close()

    def _step(self, batches: Iterator[list[Example]], signals: StopSignals) -> None:
        """Take one step and do what is due after it."""
        position, random = self.stream.position, random_state()
        outcome = self._optimizer_step(batches)
        reports = self._all_gather_reports(outcome, signals)
        signal = first_signal(report.signal for report in reports)
        if outcome.interrupted:
            assert signal is not None
            self._undo_step(position, random)
            raise Interrupted(signal, _stopped_after(self.state.step))
        self.state.step += 1
        metrics = merged_metrics(reports)
        self._check(metrics, reports)
        for report in reports:
            self.stage.add_rollouts(report.new_rollouts)
        self.stage.on_step_end()
        max_in_a_row, scaler = self.settings.max_skipped_steps, self.accelerator.scaler
        count_skipped(
            self.state, outcome, reports, scaler=scaler, max_in_a_row=max_in_a_row, on_warning=self.on_warning
        )
        signal = self._evaluate_and_log(metrics, signal, signals)
        self.checkpoints.raise_if_failed()
        if signal or self._is_due(self.settings.checkpoint_every):
            self._save()
        if signal:
            raise Interrupted(signal, _stopped_after(self.state.step))

    def _optimizer_step(self, batches: Iterator[list[Example]]) -> StepOutcome:
        step = self.steps_before + self.state.step + 1
        schedule_steps = self.schedule_steps or self.steps_before + self.settings.steps
        factor = rate_factor(step, schedule_steps, self.settings)
        return optimizer_step(
            self.accelerator, self.stage, self.module, self.optimizers, batches, self.settings, step, self.seed, factor
        )

    def _all_gather_reports(self, outcome: StepOutcome, signals: StopSignals) -> list[StepReport]:
        report = StepReport(
            metrics=outcome.metrics,
            unreadable=self.stream.take_unreadable(),
            new_rollouts=self.stage.take_new_rollouts(),
            nonfinite_utterances=[] if outcome.finite else outcome.utterances,
            signal=signals.received,
        )
        return all_gather_reports(report)

    def _undo_step(self, position: Any, random: dict[str, str]) -> None:
        """Restore the state before an interrupted step, and save that state unless a checkpoint holds it."""
        self.stream.position = position
        restore_random_state(random)
        if self.saved_step != self.state.step:
            self._save()

    def _check(self, metrics: Metrics, reports: Sequence[StepReport]) -> None:
        """Record unreadable utterances and have the stage check the metrics.

        Raises:
            InputError: too many utterances are unreadable, or the stage must not continue.
        """
        with processes.raise_on_first_rank():
            self.quarantine.add([item for report in reports for item in report.unreadable])
            if warning := self.stage.check_metrics(metrics):
                self.on_warning(f"step {self.state.step}: {warning}")

    def _evaluate_and_log(self, metrics: Metrics, signal: int | None, signals: StopSignals) -> int | None:
        """Evaluate if it is due, and log the step.

        After a stop signal, a due evaluation is left out, because the process may soon be killed. The checkpoint then
        holds the metrics of the step, and the resumed run evaluates and logs it.

        Returns:
            `signal`, or a signal that arrived during the evaluation.
        """
        values = {name: value for name, value in metrics.values().items() if math.isfinite(value)}
        if self.evaluate and self._is_due(self.settings.evaluate_every):
            if signal:
                self.state.unevaluated_metrics = values
                return signal
            values |= self._evaluated(self.evaluate)
            signal = first_signal(processes.all_gather(signals.received))
        if self.log:
            self.log.write(self.state.step, values)
        if self.on_step:
            self.on_step(self.state.step, values)
        return signal

    def _evaluated(self, evaluate: Evaluation) -> dict[str, float]:
        self.stage.eval()
        with unsharded_weights(self.stage):
            return evaluate()

    def _save(self) -> None:
        scaler = self.accelerator.scaler
        self.state.scaler = scaler.state_dict() if scaler is not None else None
        self.state.pending_rollouts = pending_rollouts_of_all_ranks(self.stage) if self.stage.prefetch_steps else None
        self.state.data = self.stream.state()
        self.checkpoints.save(self.state, self.stage.extra_state())
        self.saved_step = self.state.step

    def _restore_data_and_rollouts(self, extra_state: Mapping[str, Tensor]) -> None:
        if self.state.data_seed != self.seed:
            raise InputError(
                f"{self.folder}: its checkpoint was written by an older arkasr version, which ordered the data "
                "differently; finish the stage with that version, or remove the folder to train it again"
            )
        self.stream.restore(self.state.data)
        if extra_state:
            done = self.steps_before + self.state.step
            pending = pending_rollouts_of_this_rank(
                self.state.pending_rollouts or {}, done, self.stage, self.settings, self.seed
            )
            self.stage.load_extra_state(extra_state, pending)

    def _load_scaler(self, state: TrainingState) -> None:
        if self.accelerator.scaler is not None:
            assert state.scaler is not None, "all stages of a run have the same mixed_precision"
            self.accelerator.scaler.load_state_dict(state.scaler)

    def _torch_optimizers(self) -> list[Optimizer]:
        return [optimizer.optimizer for optimizer in self.optimizers]

    def _is_due(self, every: int) -> bool:
        step = self.state.step
        return step == self.settings.steps or (every > 0 and step % every == 0)


def _stopped_after(step: int) -> str:
    return f"stopped after step {step}, which is in a checkpoint; continue with --resume"
