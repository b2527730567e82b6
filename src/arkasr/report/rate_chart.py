"""Table 1 as a figure: the error rate of every variant on every test set, with intervals.

In: a `RateTable`. Out: a `Chart`.
"""

import math
from collections.abc import Sequence
from typing import Any

from arkasr.report.charts import PALETTE, Chart, figure
from arkasr.report.tables import RateCell, RateTable, RateTableRow
from arkasr.report.wording import percent

# Distinguishable without colour; models that teach are hollow.
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star")

# If the highest rate is more than so many times the lowest one, the differences between low rates would not be seen.
LINEAR_RATIO = 8.0


def rate_chart(table: RateTable) -> Chart | None:
    """Rates as points, 95% intervals as bars; None if fewer than two variants were scored."""
    rows = [row for row in table.rows if any(cell and cell.mean is not None for cell in row.cells)]
    if len(rows) < 2:
        return None
    drawn = figure([_points(table, row, place) for place, row in enumerate(rows)], "", "error rate")
    above = {"orientation": "h", "x": 0, "y": 1.04, "yanchor": "bottom"}
    drawn["layout"] |= {"scattermode": "group", "scattergap": 0.35, "legend": above}
    drawn["layout"]["xaxis"] |= {"type": "category", "automargin": True}
    drawn["layout"]["yaxis"] |= {"tickformat": ".0%", "hoverformat": ".1%", "rangemode": "tozero"}
    note = "The numbers of table 1, lower is better. Bars: 95% intervals. Hollow: a model that teaches."
    means = [cell.mean for row in rows for cell in row.cells if cell and cell.mean is not None]
    if min(means) > 0 and max(means) > LINEAR_RATIO * min(means):
        drawn["layout"]["yaxis"] |= _logarithmic(means)
        note += " The scale is logarithmic."
    return Chart("Rates and intervals", note, drawn, "; ".join(_in_words(table, row) for row in rows) + ".")


def _points(table: RateTable, row: RateTableRow, place: int) -> dict[str, Any]:
    bars = [_bar(cell) for cell in row.cells]
    colour, symbol = PALETTE[place % len(PALETTE)], SYMBOLS[place % len(SYMBOLS)]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": row.variant,
        "x": [column.set for column in table.columns],
        "y": [cell.mean if cell else None for cell in row.cells],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [above for above, _ in bars],
            "arrayminus": [below for _, below in bars],
            "thickness": 1.5,
            "width": 3,
        },
        "marker": {
            "size": 9,
            "color": colour,
            "symbol": f"{symbol}-open" if row.is_teacher else symbol,
            "line": {"width": 2, "color": colour},
        },
    }


def _logarithmic(means: Sequence[float]) -> dict[str, Any]:
    """An axis on which all means have room; longer bars end at its edges."""
    lowest, highest = math.log10(min(means) / 2), math.log10(max(means) * 2)
    return {"type": "log", "range": [lowest, highest], "dtick": "D2", "tickformat": "~%"}


def _bar(cell: RateCell | None) -> tuple[float | None, float | None]:
    """Length of the interval above and below the mean."""
    if cell is None or cell.mean is None or cell.ci95 is None:
        return None, None
    low, high = cell.ci95
    return high - cell.mean, cell.mean - low


def _in_words(table: RateTable, row: RateTableRow) -> str:
    rates = (
        f"{column.set} {percent(cell.mean, table.decimals)}%"
        for column, cell in zip(table.columns, row.cells, strict=True)
        if cell and cell.mean is not None
    )
    return f"{row.variant}: {', '.join(rates)}"
