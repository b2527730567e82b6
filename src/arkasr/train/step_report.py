"""The report that every process sends to the others after a step."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from arkasr import processes
from arkasr.train.metrics import Metrics
from arkasr.train.stream import UnreadableUtterance


@dataclass(frozen=True)
class StepReport:
    """One process's report of a step.

    Attributes:
        metrics: of the step.
        unreadable: utterances that could not be read.
        new_rollouts: from `Stage.take_new_rollouts`.
        nonfinite_utterances: ids of the step's utterances if the step was not finite; else empty.
        signal: number of the stop signal that the process received; None = none.
    """

    metrics: Metrics
    unreadable: list[UnreadableUtterance]
    new_rollouts: dict[str, Any]
    nonfinite_utterances: list[str]
    signal: int | None


def all_gather_reports(report: StepReport) -> list[StepReport]:
    """The reports of all processes, by rank; every process must call this."""
    document = {
        "metrics": report.metrics.to_json(),
        "unreadable": [asdict(item) for item in report.unreadable],
        "new_rollouts": report.new_rollouts,
        "nonfinite_utterances": report.nonfinite_utterances,
        "signal": report.signal,
    }
    return [_report_of(gathered) for gathered in processes.all_gather(document)]


def merged_metrics(reports: Sequence[StepReport]) -> Metrics:
    """The metrics of a step over all processes."""
    merged = Metrics()
    for report in reports:
        merged.merge(report.metrics)
    return merged


def first_signal(signals: Iterable[int | None]) -> int | None:
    """The stop signal of the first process that received one."""
    return next((signal for signal in signals if signal), None)


def _report_of(document: dict[str, Any]) -> StepReport:
    return StepReport(
        metrics=Metrics.from_json(document["metrics"]),
        unreadable=[UnreadableUtterance(**item) for item in document["unreadable"]],
        new_rollouts=document["new_rollouts"],
        nonfinite_utterances=document["nonfinite_utterances"],
        signal=document["signal"],
    )
