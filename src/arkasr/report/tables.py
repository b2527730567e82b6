"""A run's tables as data: error rates, like the paper's table 1, and support, like its table 2.

In: a `Run`. Out: rows of numbers. `terminal.py` and the page's templates lay them out.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from arkasr.report.results import POOLED, ScoreRow
from arkasr.report.run_folder import Run
from arkasr.report.wording import count, few_speakers


@dataclass(frozen=True)
class RateCell:
    """One cell of table 1.

    Attributes:
        mean: rate over seeds, a share; None if there are no reference tokens.
        ci95: interval of the recipe if there are several seeds, else of the one model; None if there is none.
        deviation: sample standard deviation over seeds; None if there is one seed.
        failed: utterances that could not be transcribed, summed over seeds; they are not counted in any rate.
        best: whether this is the lowest mean of several students on this set; False if there is only one student.
    """

    mean: float | None
    ci95: tuple[float, float] | None
    deviation: float | None
    failed: int
    best: bool = False


@dataclass(frozen=True)
class Column:
    """A test set of table 1, or all sets pooled.

    Attributes:
        metric: `wer` or `cer`; `wer + cer` if sets with both are pooled.
        speakers: None if unknown.
    """

    set: str
    metric: str
    utterances: int
    speakers: int | None

    @property
    def size(self) -> str:
        """`400 utterances, 8 speakers`."""
        speakers = "" if self.speakers is None else f", {count(self.speakers, 'speaker')}"
        return count(self.utterances, "utterance") + speakers


@dataclass(frozen=True)
class RateTableRow:
    """One variant of table 1; a cell is None if the variant was not scored on the set."""

    variant: str
    is_teacher: bool
    cells: list[RateCell | None]


@dataclass(frozen=True)
class RateTable:
    """Table 1, and the facts of its caption.

    Attributes:
        columns: the test sets in order, then the pooled column if there are several sets.
        rows: the variants, in the recipe's order.
        normalizers: labels such as `basic@1`.
        seeds: number of seeds of the run.
    """

    columns: list[Column]
    rows: list[RateTableRow]
    normalizers: list[str]
    seeds: int

    @property
    def decimals(self) -> int:
        """Decimals of the percentages, so that the largest has about three significant digits."""
        means = [cell.mean for row in self.rows for cell in row.cells if cell and cell.mean is not None]
        return 2 if means and max(means) < 0.10 else 1


@dataclass(frozen=True)
class SupportTableRow:
    """One model of table 2 before OPD, over all seeds: VUSS in tokens per position, shares, and warnings."""

    variant: str
    vuss_mean: float
    vuss_min: float
    vuss_max: float
    overlap_ratio: float
    overlap_mass_teacher: float | None
    warnings: list[str]


def rate_table(run: Run) -> RateTable:
    """Error rates of every variant on every test set, and pooled over them."""
    sets = run.test_sets
    rows = []
    for variant in run.variants:
        cells = [_rate_cell(run, variant, name) for name in [*sets, *([POOLED] if len(sets) > 1 else [])]]
        rows.append(RateTableRow(variant, variant in run.teachers, cells))
    columns = [_column(run, name) for name in sets]
    if len(sets) > 1:
        metrics = sorted({column.metric for column in columns}, reverse=True)
        utterances = sum(column.utterances for column in columns)
        speakers = next((score.speakers for score in run.scores if score.set == POOLED), None)
        columns.append(Column(POOLED, " + ".join(metrics), utterances, speakers))
    normalizers = list(dict.fromkeys(label for score in run.scores for label in score.normalizer.split(", ")))
    return RateTable(columns, _mark_best(rows), normalizers, len(run.seeds))


def intervals_in_words(run: Run, table: RateTable) -> str:
    """What the deviations and intervals of the table describe, and what they do not include."""
    text = f"95% interval over {run.resampled}, of this one model"
    if table.seeds > 1:
        text = (
            f"± standard deviation over seeds; 95% interval of the recipe, over seeds and {run.resampled} "
            f"(for a variant with one seed: of that one model, over {run.resampled})"
        )
    fewest = min((column.speakers for column in table.columns if column.speakers is not None), default=None)
    clause = few_speakers(fewest, run.resampled, has_seeds=table.seeds > 1)
    return f"{text}; {clause}" if clause else text


def pooled_scores(run: Run, variant: str) -> list[ScoreRow]:
    """A variant's scores over all test sets, one per seed: the pooled rows of the results, else sums without interval.

    Sums leave out seeds that were not scored on every test set.
    """
    stored = _of(run.scores, variant, POOLED)
    if stored:
        return stored
    scores = [score for score in run.scores if score.variant == variant]
    pooled = []
    for seed in dict.fromkeys(score.seed for score in scores):
        parts = [score for score in scores if score.seed == seed]
        if len(parts) == len(run.test_sets):
            pooled.append(_sum(parts))
    return pooled


def support_table(run: Run) -> list[SupportTableRow]:
    """Support of every model that OPD started from: means and extremes over seeds."""
    table = []
    for variant in dict.fromkeys(row.variant for row in run.support):
        rows = [row for row in run.support if row.variant == variant]
        seeds = [row.figures for row in rows]
        masses = [figures["overlap_mass_teacher"] for figures in seeds if "overlap_mass_teacher" in figures]
        table.append(
            SupportTableRow(
                variant,
                statistics.fmean(figures["vuss_mean"] for figures in seeds),
                min(figures["vuss_min"] for figures in seeds),
                max(figures["vuss_max"] for figures in seeds),
                statistics.fmean(figures["overlap_ratio"] for figures in seeds),
                statistics.fmean(masses) if masses else None,
                list(dict.fromkeys(warning for row in rows for warning in row.warnings)),
            )
        )
    return table


def _of(scores: Sequence[ScoreRow], variant: str, name: str) -> list[ScoreRow]:
    return [score for score in scores if score.variant == variant and score.set == name]


def _column(run: Run, name: str) -> Column:
    score = next(score for score in run.scores if score.set == name)
    return Column(name, score.metric, score.utterances + score.failed, score.speakers)


def _sum(parts: Sequence[ScoreRow]) -> ScoreRow:
    errors = sum(part.errors for part in parts)
    tokens = sum(part.reference_tokens for part in parts)
    return ScoreRow(
        variant=parts[0].variant,
        seed=parts[0].seed,
        set=POOLED,
        metric=parts[0].metric,
        errors=errors,
        reference_tokens=tokens,
        rate=errors / tokens if tokens else None,
        ci95=None,
        utterances=sum(part.utterances for part in parts),
        failed=sum(part.failed for part in parts),
        normalizer=parts[0].normalizer,
    )


def _rate_cell(run: Run, variant: str, name: str) -> RateCell | None:
    scores = pooled_scores(run, variant) if name == POOLED else _of(run.scores, variant, name)
    if not scores:
        return None
    failed = sum(score.failed for score in scores)
    for mean in run.over_seeds:
        if (mean.variant, mean.set) == (variant, name):
            return RateCell(mean.rate, mean.ci95, mean.deviation, failed)
    rates = [score.rate for score in scores if score.rate is not None]
    return RateCell(
        mean=statistics.fmean(rates) if rates else None,
        ci95=scores[0].ci95 if len(scores) == 1 else None,
        deviation=statistics.stdev(rates) if len(rates) > 1 else None,
        failed=failed,
    )


def _mark_best(rows: list[RateTableRow]) -> list[RateTableRow]:
    students = [row for row in rows if not row.is_teacher]
    if len(students) < 2:
        return rows
    lowest = [
        min((cell.mean for cell in column if cell is not None and cell.mean is not None), default=None)
        for column in zip(*(row.cells for row in students), strict=True)
    ]
    return [
        row
        if row.is_teacher
        else replace(row, cells=[_marked(cell, mean) for cell, mean in zip(row.cells, lowest, strict=True)])
        for row in rows
    ]


def _marked(cell: RateCell | None, lowest: float | None) -> RateCell | None:
    if cell is None or cell.mean is None:
        return cell
    return replace(cell, best=cell.mean == lowest)
