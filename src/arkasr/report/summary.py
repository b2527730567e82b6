"""A run and its results in sentences, with the same wording for gains and losses. In: a `Run`. Out: plain text."""

from dataclasses import dataclass

from arkasr.report.results import POOLED, ComparisonRow
from arkasr.report.run_folder import Run
from arkasr.report.tables import pooled_scores, rate_table
from arkasr.report.wording import count, duration, few_speakers, percent, points, points_range, probability

SIGNIFICANT = 0.05
ONE_SEED_TEST = "paired permutation test"  # a test's name begins with this if both sides have one seed


@dataclass(frozen=True)
class Summary:
    """Sentences about a run.

    Attributes:
        description: variants, test sets, seeds and time.
        headline: the last student compared with the first.
        details: the last student's other comparisons, and failed transcriptions.
    """

    description: str
    headline: str
    details: list[str]


def summarise(run: Run) -> Summary:
    """Describe a run in sentences."""
    headline, *details = _results(run)
    return Summary(_description(run), headline, [*details, *_failures(run)])


def result_in_words(comparison: ComparisonRow) -> str:
    """A comparison's result in a few words."""
    if comparison.p is None:
        return "not tested"
    if comparison.p >= SIGNIFICANT:
        return "not significant"
    return "a is better" if comparison.difference < 0 else "b is better"


def _description(run: Run) -> str:
    utterances = sum(
        {score.set: score.utterances + score.failed for score in run.scores if score.set != POOLED}.values()
    )
    parts = [
        f"{count(len(run.variants), 'variant')} on {count(len(run.test_sets), 'test set')}",
        f"{count(utterances, 'test utterance')}",
        f"{count(len(run.seeds), 'seed')}",
    ]
    if seconds := run.environment.get("seconds"):
        parts.append(f"{duration(seconds)} of computing")
    recipe_description = str(run.recipe.get("description") or "").strip()
    return f"{recipe_description} {', '.join(parts)}.".strip()


def _results(run: Run) -> list[str]:
    """The headline, then one sentence for each other pooled comparison of the last student."""
    if len(run.students) < 2:
        rates = (f"{name} {_pooled(run, name)}" for name in run.variants)
        return [f"Error rate over all test sets: {', '.join(rates)}."]
    base, final = run.students[0], run.students[-1]
    rows = [row for row in run.comparisons if row.set == overall_set(run) and final in (row.a, row.b)]
    row_by_rival = {row.b if row.a == final else row.a: row for row in rows}
    if base not in row_by_rival:
        return [
            f"Error rate over all test sets: {base} {_pooled(run, base)}, {final} {_pooled(run, final)}; "
            "the recipe does not compare the two, so chance is not ruled out."
        ]
    ordered = [base, *(name for name in row_by_rival if name != base)]
    return [_sentence(run, final, name, row_by_rival[name]) for name in ordered]


def _sentence(run: Run, final: str, rival: str, row: ComparisonRow) -> str:
    difference, ci95 = row.difference, row.ci95
    if row.a != final:
        difference, ci95 = -difference, ci95 and (-ci95[1], -ci95[0])
    rates = f"{_pooled(run, rival)} → {_pooled(run, final)}"
    scope = scope_in_words(run, row)
    if row.p is None:
        return f"{final} was not tested against {rival}: {rates} ({points(difference)} points). {scope}"
    interval = f"95% interval {points_range(ci95)}"
    figures = f"{points(difference)} points, {interval}, {_p_value(row.p)}"
    if row.p >= SIGNIFICANT:
        return f"{final} is not significantly different from {rival}: {rates} ({figures}). {scope}"
    if difference < 0:
        return f"{final} makes fewer errors than {rival}: {rates} ({figures}). {scope}"
    return f"{final} makes more errors than {rival}: {rates} ({figures}). {scope}"


def scope_in_words(run: Run, row: ComparisonRow) -> str:
    """A sentence that says what the comparison is valid for, or why it was not tested."""
    if row.p is None:
        return f"There is {row.test}."
    speakers = rate_table(run).columns[-1].speakers
    clause = few_speakers(speakers, run.resampled, has_seeds=not row.test.startswith(ONE_SEED_TEST))
    return f"This holds for {row.speaks_of}{'; ' + clause if clause else ''}."


def overall_set(run: Run) -> str:
    """Set name of the rows over all test sets: `pooled`, or the only test set."""
    return POOLED if len(run.test_sets) > 1 else run.test_sets[0]


def _pooled(run: Run, variant: str) -> str:
    for mean in run.over_seeds:
        if (mean.variant, mean.set) == (variant, overall_set(run)):
            return f"{percent(mean.rate)}%"
    rates = [score.rate for score in pooled_scores(run, variant) if score.rate is not None]
    return f"{percent(sum(rates) / len(rates))}%" if rates else "no rate"


def _p_value(p: float) -> str:
    text = probability(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _failures(run: Run) -> list[str]:
    scores = [score for score in run.scores if score.set != POOLED]
    sentences = []
    if failed := sum(score.failed for score in scores):
        transcriptions = count(failed, "transcription")
        sentences.append(f"{transcriptions} failed and are not counted in any error rate; report.html marks them.")
    if truncated := sum(score.truncated for score in scores):
        transcripts = count(truncated, "transcript")
        sentences.append(f"{transcripts} reached `evaluation.max_new_tokens` and were cut off; they count as written.")
    return sentences
