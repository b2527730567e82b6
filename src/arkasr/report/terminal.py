"""A run's results on a terminal: tables that fit its width, and the summary's sentences.

In: a run's folder. Out: text on a rich console.
"""

from collections.abc import Iterator
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from arkasr.report.run_folder import Run, read_run
from arkasr.report.summary import overall_set, result_in_words, scope_in_words, summarise
from arkasr.report.tables import Column, RateCell, RateTable, intervals_in_words, rate_table, support_table
from arkasr.report.wording import count, percent, percent_range, points, points_range, probability

GAP = 2  # spaces between two columns


def print_results(folder: Path, console: Console) -> None:
    """Print the error rates, the support, the comparisons over all test sets, and the summary of a run.

    Raises:
        InputError: the folder contains no finished run.
    """
    run = read_run(folder)
    table = rate_table(run)
    for columns in _blocks(table, console.width):
        console.print(_rates(table, columns))
    console.print(Text(_rates_note(run, table), style="dim"), highlight=False)
    if run.support:
        console.print()
        console.print(_support(run))
        for row in support_table(run):
            for warning in row.warnings:
                console.print(Text(f"OPD from {row.variant} may not work: {warning}.", style="dim"), highlight=False)
    if any(row.set == overall_set(run) for row in run.comparisons):
        console.print()
        console.print(_comparisons(run))
        console.print(Text(_scopes(run), style="dim"), highlight=False)
    console.print()
    summary = summarise(run)
    console.print(Text(summary.headline, style="bold"), highlight=False)
    for sentence in summary.details:
        console.print(Text(sentence), highlight=False)


def _blocks(table: RateTable, width: int) -> Iterator[list[int]]:
    """Indices of the columns that fit beside each other, block by block; at least one per block."""
    variant_width = max(len(row.variant) for row in table.rows)
    block: list[int] = []
    used = variant_width
    for index, column in enumerate(table.columns):
        texts = [_cell(row.cells[index], table.decimals).plain for row in table.rows] + [_header(column)]
        needed = GAP + max(len(part) for text in texts for part in text.split("\n"))
        if block and used + needed > width:
            yield block
            block, used = [], variant_width
        block.append(index)
        used += needed
    yield block


def _rates(table: RateTable, columns: list[int]) -> Table:
    rendered = _plain_table("Error rates, %")
    rendered.add_column("\nvariant", no_wrap=True)
    for index in columns:
        rendered.add_column(_header(table.columns[index]), justify="right", no_wrap=True)
    for row, following in zip(table.rows, [*table.rows[1:], None], strict=True):
        rendered.add_row(
            Text(row.variant, style="italic" if row.is_teacher else ""),
            *(_cell(row.cells[index], table.decimals) for index in columns),
            end_section=following is not None and row.is_teacher != following.is_teacher,
        )
    return rendered


def _header(column: Column) -> str:
    return f"{column.set}\n{column.metric.upper()}"


def _cell(cell: RateCell | None, decimals: int) -> Text:
    if cell is None:
        return Text("–")
    text = Text(percent(cell.mean, decimals), style="bold" if cell.best else "")
    if cell.deviation is not None:
        text.append(f"\n±{percent(cell.deviation, decimals)}", style="not bold dim")
    if cell.ci95 is not None:
        text.append(f"\n{percent_range(cell.ci95, decimals)}", style="not bold dim")
    return text


def _rates_note(run: Run, table: RateTable) -> str:
    """Two lines on how to read the table: the intervals, and the sizes of the sets."""
    sizes = "; ".join(f"{column.set}: {column.size}" for column in table.columns)
    note = f"{intervals_in_words(run, table)}; bold: best student; normaliser {', '.join(table.normalizers)}\n{sizes}"
    failed = sum(cell.failed for row in table.rows for cell in row.cells[: len(table.columns)] if cell)
    return f"{note}; {count(failed, 'failed transcription')} not counted" if failed else note


def _support(run: Run) -> Table:
    rendered = _plain_table("Support before OPD, tokens per position")
    rendered.add_column("model", no_wrap=True)
    for header in ("VUSS mean", "min", "max", "overlap ratio"):
        rendered.add_column(header, justify="right")
    for row in support_table(run):
        sizes = (f"{value:.2f}" for value in (row.vuss_mean, row.vuss_min, row.vuss_max))
        rendered.add_row(row.variant, *sizes, f"{percent(row.overlap_ratio)}%")
    return rendered


def _comparisons(run: Run) -> Table:
    rendered = _plain_table("Comparisons over all test sets, percentage points")
    for header in ("a", "b"):
        rendered.add_column(header, overflow="fold")
    for header in ("a − b", "95% interval", "p"):
        rendered.add_column(header, justify="right", no_wrap=True)
    rendered.add_column("shows", overflow="fold")
    for row in run.comparisons:
        if row.set == overall_set(run):
            figures = points(row.difference), points_range(row.ci95), probability(row.p)
            rendered.add_row(row.a, row.b, *figures, result_in_words(row))
    return rendered


def _scopes(run: Run) -> str:
    """What each comparison is valid for, one line each, or one line if it is the same for all."""
    rows = [row for row in run.comparisons if row.set == overall_set(run)]
    scopes = [scope_in_words(run, row) for row in rows]
    if len(set(scopes)) == 1:
        return scopes[0]
    return "\n".join(f"{row.a} − {row.b}: {scope}" for row, scope in zip(rows, scopes, strict=True))


def _plain_table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),  # the box adds one space between columns
    )
