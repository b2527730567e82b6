"""Steps that are skipped because their loss or gradient is not finite; too many in a row end the run."""

from collections.abc import Callable, Sequence
from typing import Any

from arkasr import processes
from arkasr.errors import InputError
from arkasr.train.step import StepOutcome
from arkasr.train.step_report import StepReport
from arkasr.train.training_state import TrainingState


def count_skipped(
    state: TrainingState,
    outcome: StepOutcome,
    reports: Sequence[StepReport],
    *,
    scaler: Any,
    max_in_a_row: int,
    on_warning: Callable[[str], None],
) -> None:
    """Update `state.skipped_in_a_row` after a step.

    Args:
        state: after the step.
        outcome: of the step, on this process.
        reports: of the step, from all processes.
        scaler: the gradient scaler; None without one.
        max_in_a_row: this many skipped steps in a row end the run.
        on_warning: called with one line for every skipped step.

    Raises:
        InputError: `max_in_a_row` steps in a row were skipped; the message names the utterances of the last one.
    """
    # GradScaler lowers its scale in steps that overflow. These steps count only once the scale has reached 1.
    searching_scale = outcome.gradient_nonfinite and scaler is not None and scaler.get_scale() > 1
    if outcome.finite or searching_scale:
        state.skipped_in_a_row = 0
        return
    state.skipped_in_a_row += 1
    on_warning(f"step {state.step} skipped: its loss or gradient is not finite")
    if state.skipped_in_a_row < max_in_a_row:
        return
    utterances = ", ".join(name for report in reports for name in report.nonfinite_utterances)
    with processes.raise_on_first_rank():
        raise InputError(
            f"loss or gradient were not finite in {state.skipped_in_a_row} steps in a row, the last of them step "
            f"{state.step} on utterances {utterances}; lower learning_rate, raise warmup_steps, or leave out these "
            "utterances; the skipped steps did not change the weights"
        )
