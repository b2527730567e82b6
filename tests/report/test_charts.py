import json
from pathlib import Path

import plotly.graph_objects
import pytest

from arkasr.report.charts import diagnostic_charts, learning_charts
from arkasr.report.curves import MAX_POINTS, downsample
from arkasr.report.run_folder import read_run
from tests.report.example_run import build_run, write_lines


def test_every_figure_is_valid_in_plotly(tmp_path: Path) -> None:
    run = read_run(build_run(tmp_path / "run", seeds=(0, 1)))
    charts = [*learning_charts(run), *diagnostic_charts(run)]
    assert len(charts) == 1 + 3 + 7 + 2
    for chart in charts:
        # Raises if a property does not exist.
        plotly.graph_objects.Figure(chart.figure)
        json.dumps(chart.figure, allow_nan=False)


def test_a_curve_starts_where_its_start_stage_ended(run_path: Path) -> None:
    development = learning_charts(read_run(run_path))[0]
    lines = {trace["name"]: trace for trace in development.figure["data"]}
    # opd comes after base-ctc and base, 30 steps each; opd-after-td also after td.
    assert lines["base"]["x"][-1] == 60
    assert lines["opd"]["x"][0] == 60
    assert lines["opd"]["y"][0] == lines["base"]["y"][-1]
    assert lines["opd-after-td"]["x"][-1] == 120
    assert "base-ctc" not in lines


def test_phases_are_stacked(run_path: Path) -> None:
    time = next(chart for chart in diagnostic_charts(read_run(run_path)) if chart.title.startswith("Time"))
    names = [trace["name"] for trace in time.figure["data"]]
    assert names == ["data", "rollout", "teacher", "student", "backward", "optimizer"]
    assert {trace["stackgroup"] for trace in time.figure["data"]} == {"time"}


def test_stages_without_a_log_have_no_chart(run_path: Path) -> None:
    for name in ("opd", "opd-after-td"):
        (run_path / "stages" / name / "metrics.jsonl").unlink()
    run = read_run(run_path)
    assert diagnostic_charts(run) == []
    assert "Loss, OPD stages" not in [chart.title for chart in learning_charts(run)]


def test_values_that_are_not_finite_are_left_out(run_path: Path) -> None:
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": 1.0}]
    write_lines(run_path / "stages" / "base-ctc" / "metrics.jsonl", lines)
    chart = next(chart for chart in learning_charts(read_run(run_path)) if "CTC" in chart.title)
    assert chart.figure["data"][0]["y"] == [2.0, 1.0]


@pytest.mark.parametrize("length", [1, 199, 200, 201, 5000])
def test_downsampling_keeps_the_end_the_mean_and_the_extremes(length: int) -> None:
    points = [(step, float(step % 7)) for step in range(1, length + 1)]
    mean, highest, lowest = (downsample(points, name) for name in ("support/vuss_mean", "x_max", "x_min"))
    assert len(mean.steps) <= MAX_POINTS
    assert mean.steps[-1] == length
    assert max(highest.values) == max(value for _, value in points)
    assert min(lowest.values) == min(value for _, value in points)
    if length == 5000:
        assert sum(mean.values) / len(mean.values) == pytest.approx(sum(v for _, v in points) / length, rel=1e-3)
