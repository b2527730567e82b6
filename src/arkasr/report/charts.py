"""Training curves as Plotly figures: mappings that plotly.js draws.

In: a `Run`. Out: charts with a title and a note; charts without data are left out. `page.js` sets the colours of text
and background.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from arkasr.report.curves import Curve, StageLog, stage_logs
from arkasr.report.run_folder import Run, TrainedStage

# Contrast of at least 3:1 on white and on the dark background; colour-blind people can distinguish them.
PALETTE = ("#2f7ed8", "#cf6410", "#14957a", "#b8559f", "#8a7a10", "#7d6be0", "#cc4a55", "#6f7d8c")
DASHES = ("solid", "dash", "dot")
PHASES = ("data", "encode", "rollout", "teacher", "student", "backward", "optimizer")


@dataclass(frozen=True)
class Panel:
    """A chart of training metrics: `lines` maps labels to metric names (a single line has the label "")."""

    title: str
    note: str
    unit: str
    lines: Mapping[str, str]


@dataclass(frozen=True)
class Chart:
    """One chart; `figure` has the `data` and `layout` that plotly.js expects, `in_words` is for screen readers."""

    title: str
    note: str
    figure: dict[str, Any]
    in_words: str


LOSS_NOTES = {
    "ctc": "CTC warm start of the audio encoder: nats per reference token.",
    "sft": "Cross-entropy of the labels: nats per token.",
    "opd": "Divergence from the teacher along the student's own transcripts: nats per valid position.",
}
DIAGNOSTICS = (
    Panel(
        "Size of the support (VUSS)",
        "Tokens in the union of both top-k after filtering. Smaller: student and teacher agree more.",
        "tokens per position",
        {"mean": "support/vuss_mean", "min": "support/vuss_min", "max": "support/vuss_max"},
    ),
    Panel(
        "Overlap ratio",
        "Share of the top-k tokens that student and teacher have in common.",
        "share of top-k",
        {"": "support/overlap_ratio"},
    ),
    Panel(
        "Overlap mass",
        "Probability that each model gives to the common tokens.",
        "probability",
        {"teacher": "support/overlap_mass_teacher", "student": "support/overlap_mass_student"},
    ),
    Panel(
        "Entropies and their gap",
        "Entropy of each model's distribution of the next token, and the difference.",
        "nats",
        {
            "teacher": "support/entropy_teacher",
            "student": "support/entropy_student",
            "gap": "support/entropy_gap",
        },
    ),
    Panel(
        "Tail masses",
        "Probability outside the support; the objective ignores it.",
        "probability",
        {"teacher": "support/tail_mass_teacher", "student": "support/tail_mass_student"},
    ),
    Panel(
        "Rollout length",
        "Tokens that the student generates before it stops.",
        "tokens per utterance",
        {"": "rollout/tokens"},
    ),
    Panel(
        "Failed rollouts",
        "Empty transcripts, and those cut off at the token cap.",
        "share of rollouts",
        {"empty": "rollout/empty", "truncated": "rollout/truncated"},
    ),
)


def learning_charts(run: Run) -> list[Chart]:
    """Error rate on the development set over all updates, then the loss of each kind of stage."""
    logs = stage_logs(run, run.stages)
    charts = list(_development_charts(run, logs))
    for kind in dict.fromkeys(stage.kind for stage in run.stages):
        panel = Panel(f"Loss, {kind.upper()} stages", LOSS_NOTES.get(kind, ""), "loss", {"": "loss"})
        charts += _panel_charts(run, [log for log in logs if log.stage.kind == kind], panel)
    return charts


def diagnostic_charts(run: Run) -> list[Chart]:
    """Diagnostics of the OPD stages, and their time per phase."""
    logs = stage_logs(run, [stage for stage in run.stages if stage.kind == "opd"])
    charts = [chart for panel in DIAGNOSTICS for chart in _panel_charts(run, logs, panel)]
    return [*charts, *(chart for log in logs if log.seed == run.seeds[0] for chart in _phase_charts(log))]


def _panel_charts(run: Run, logs: Sequence[StageLog], panel: Panel) -> Iterator[Chart]:
    traces = []
    for log in logs:
        for index, (label, metric) in enumerate(panel.lines.items()):
            curve = log.curve(metric)
            if curve:
                traces.append(_line(run, log, curve, label, DASHES[index]))
    if traces:
        yield _over_steps(panel.title, panel.note, figure(traces, "optimizer step", panel.unit))


def _development_charts(run: Run, logs: Sequence[StageLog]) -> Iterator[Chart]:
    curves = {(log.stage.name, log.seed): log.curve("dev/error_rate") for log in logs}
    traces = []
    for log in logs:
        curve = curves[log.stage.name, log.seed]
        if curve is None:
            continue
        first_update = _updates_before(run, log.stage)
        steps, values = [first_update + step for step in curve.steps], curve.values
        # A stage that ran once has a log of the first seed only.
        parent = curves.get((log.stage.start, log.seed), curves.get((log.stage.start, run.seeds[0])))
        if parent is not None:
            steps, values = [first_update, *steps], [parent.values[-1], *values]
        trace = _line(run, log, Curve(steps, values), "", "solid")
        traces.append(trace | {"mode": "lines+markers", "marker": {"size": 6}})
    if traces:
        drawn = figure(traces, "optimizer steps since random weights", "error rate")
        drawn["layout"]["yaxis"] |= {"tickformat": ".0%", "hoverformat": ".1%"}
        note = "A curve begins where its start stage ended, so points at the same step had the same number of updates."
        yield _over_steps("Error rate on the development set", note, drawn)


def _updates_before(run: Run, stage: TrainedStage) -> int:
    stages = {other.name: other for other in run.stages}
    updates, name = 0, stage.start
    while name in stages:
        updates += stages[name].steps
        name = stages[name].start
    return updates


def _phase_charts(log: StageLog) -> Iterator[Chart]:
    names = log.metrics("time")
    phases = [f"time/{phase}" for phase in PHASES]
    ordered = [name for name in phases if name in names] + [name for name in names if name not in phases]
    traces = []
    for index, name in enumerate(ordered):
        curve = log.curve(name)
        if curve:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": curve.steps,
                    "y": curve.values,
                    "name": name.removeprefix("time/"),
                    "stackgroup": "time",
                    "line": {"color": PALETTE[index % len(PALETTE)], "width": 1},
                }
            )
    if traces:
        note = "Wall-clock seconds per optimizer step, stacked by phase."
        drawn = figure(traces, "optimizer step", "seconds per step")
        yield _over_steps(f"Time per phase, {log.stage.name}", note, drawn)


def _line(run: Run, log: StageLog, curve: Curve, label: str, dash: str) -> dict[str, Any]:
    is_first_seed = log.seed == run.seeds[0]
    name = f"{log.stage.name} {label}".strip()
    colour = _colour(run, log.stage)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": curve.steps,
        "y": curve.values,
        "name": name if is_first_seed else f"{name} (seed {log.seed})",
        "legendgroup": name,
        "showlegend": is_first_seed,
        "opacity": 1 if is_first_seed else 0.5,
        "line": {"color": colour, "dash": dash, "width": 2},
    }


def _colour(run: Run, stage: TrainedStage) -> str:
    """A stage's colour, the same in every chart; OPD stages get the most distinct colours."""
    ordered = sorted(run.stages, key=lambda other: ("opd", "sft", "ctc").index(other.kind))
    return PALETTE[ordered.index(stage) % len(PALETTE)]


def _over_steps(title: str, note: str, drawn: dict[str, Any]) -> Chart:
    lines = (f"{trace['name']} from {trace['y'][0]:.3g} to {trace['y'][-1]:.3g}" for trace in drawn["data"])
    return Chart(title, note, drawn, f"{'; '.join(lines)}.")


def figure(traces: Sequence[dict[str, Any]], x_title: str, y_title: str) -> dict[str, Any]:
    """`data` and `layout` of a figure, in the form that all charts of the page have."""
    return {
        "data": list(traces),
        "layout": {
            "autosize": True,
            "hovermode": "x unified",
            "showlegend": True,
            "legend": {"orientation": "h", "x": 0, "y": -0.22, "yanchor": "top"},
            "margin": {"l": 56, "r": 12, "t": 8, "b": 40},
            "xaxis": {"title": {"text": x_title, "standoff": 8}, "zeroline": False},
            "yaxis": {"title": {"text": y_title, "standoff": 8}, "zeroline": False, "automargin": True},
        },
    }
