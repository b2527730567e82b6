import json
import math
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects
import pytest

from arkasr.report.charts import Chart
from arkasr.report.rate_chart import rate_chart
from arkasr.report.run_folder import read_run
from arkasr.report.tables import RateCell, rate_table
from tests.report.example_run import VARIANTS, build_run


def test_the_figure_has_the_numbers_of_the_table(tmp_path: Path) -> None:
    table = rate_table(read_run(build_run(tmp_path / "run", seeds=(0, 1))))
    chart = rate_chart(table)
    assert chart is not None
    # Raises if a property does not exist.
    plotly.graph_objects.Figure(chart.figure)
    json.dumps(chart.figure, allow_nan=False)
    points = {trace["name"]: trace for trace in chart.figure["data"]}
    assert list(points) == list(VARIANTS)
    for row in table.rows:
        trace = points[row.variant]
        assert trace["x"] == ["en-clean", "zh-read", "pooled"]
        for place, cell in enumerate(row.cells):
            assert cell is not None
            assert trace["y"][place] == cell.mean
            if cell.ci95 is not None:
                assert trace["y"][place] + trace["error_y"]["array"][place] == pytest.approx(cell.ci95[1])
                assert trace["y"][place] - trace["error_y"]["arrayminus"][place] == pytest.approx(cell.ci95[0])
        assert trace["marker"]["symbol"].endswith("-open") == row.is_teacher
    assert "base+td+opd: en-clean " in chart.in_words


def test_a_set_without_a_rate_has_no_point(run_path: Path) -> None:
    table = rate_table(read_run(run_path))
    base, other = table.rows[1], table.rows[2]
    cells = [None, RateCell(mean=None, ci95=None, deviation=None, failed=4), base.cells[2]]
    chart = rate_chart(replace(table, rows=[replace(base, cells=cells), other]))
    assert chart is not None
    assert chart.figure["data"][0]["y"][:2] == [None, None]
    assert "en-clean" not in chart.in_words.split(";")[0]


def test_a_single_variant_has_no_figure(run_path: Path) -> None:
    table = rate_table(read_run(run_path))
    assert rate_chart(replace(table, rows=table.rows[:1])) is None


def test_rates_of_different_sizes_have_a_logarithmic_scale(run_path: Path) -> None:
    table = rate_table(read_run(run_path))

    def chart_of(*means: float) -> Chart:
        cells = [RateCell(mean, ci95=(0.0, 2 * mean), deviation=None, failed=0) for mean in means]
        chart = rate_chart(replace(table, rows=[replace(row, cells=cells) for row in table.rows[:2]]))
        assert chart is not None
        plotly.graph_objects.Figure(chart.figure)
        return chart

    axis = chart_of(0.05, 1.2, 0.3).figure["layout"]["yaxis"]
    assert axis["type"] == "log"
    assert axis["range"][0] < math.log10(0.05) < math.log10(1.2) < axis["range"][1]
    for means in ((0.05, 0.2, 0.3), (0.0, 0.2, 0.3)):
        assert "type" not in chart_of(*means).figure["layout"]["yaxis"]
