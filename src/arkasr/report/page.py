"""A run as one self-contained HTML page: no network, no second file.

In: a run's folder. Out: `report.html` in it. The templates are in this folder.
"""

import base64
import gzip
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from arkasr.files import write_atomically
from arkasr.report import wording
from arkasr.report.charts import diagnostic_charts, learning_charts
from arkasr.report.rate_chart import rate_chart
from arkasr.report.run_folder import Run, read_run
from arkasr.report.summary import overall_set, result_in_words, summarise
from arkasr.report.tables import intervals_in_words, rate_table, support_table
from arkasr.report.utterances import Limits, load_shown_test_set

DEFAULT_LIMITS = Limits()


def write_report(folder: Path, limits: Limits = DEFAULT_LIMITS) -> Path:
    """Write `report.html` into a run's folder and return its path.

    Raises:
        InputError: the folder contains no finished run.
    """
    html = render_page(read_run(folder), limits)
    target = folder / "report.html"
    write_atomically(target, [html])
    return target


def render_page(run: Run, limits: Limits = DEFAULT_LIMITS) -> str:
    """The page as text."""
    overall, rates = overall_set(run), rate_table(run)
    comparison_of_rates, learning, diagnostics = rate_chart(rates), learning_charts(run), diagnostic_charts(run)
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            run=run,
            summary=summarise(run),
            rates=rates,
            intervals_in_words=intervals_in_words(run, rates),
            support=support_table(run),
            comparisons=[row for row in run.comparisons if row.set == overall],
            comparisons_by_set=[row for row in run.comparisons if row.set != overall],
            learning=learning,
            diagnostics=diagnostics,
            rate_chart=comparison_of_rates,
            plotly=_compressed_plotly() if comparison_of_rates or learning or diagnostics else "",
            test_sets=[load_shown_test_set(run, name, limits) for name in run.test_sets],
            limits=limits,
        )
    )


def _templates() -> Environment:
    # Transcripts and manifests are untrusted, so everything is escaped except the files of this package.
    environment = Environment(
        loader=PackageLoader("arkasr", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["package_file"] = _package_file
    environment.globals["result_in_words"] = result_in_words
    for function in (
        wording.percent,
        wording.percent_range,
        wording.points,
        wording.points_range,
        wording.probability,
        wording.count,
    ):
        environment.filters[function.__name__] = function
    return environment


def _package_file(name: str) -> Markup:
    """A style sheet or script of this package, not escaped."""
    return Markup((Path(__file__).parent / name).read_text(encoding="utf-8"))


def _compressed_plotly() -> str:
    """plotly.js, compressed to 2 MB instead of 5. The page decompresses it when a chart is first visible."""
    compressed = gzip.compress(get_plotlyjs().encode(), compresslevel=9, mtime=0)
    return base64.b64encode(compressed).decode("ascii")
