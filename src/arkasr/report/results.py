"""`results.json` as typed values. In: the file. Out: its rows, validated."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arkasr.errors import InputError

POOLED = "pooled"  # the set name of rows over all test sets
REMEDY = "delete the file and let `arkasr run --resume` write it again"


@dataclass(frozen=True)
class ScoreRow:
    """A row of `rows` or `pooled`: one variant and seed on a test set.

    Attributes:
        variant: name in the recipe.
        seed: training seed.
        set: test set, or `pooled`.
        metric: `wer` or `cer`, or both when pooled.
        errors: substitutions, deletions and insertions.
        reference_tokens: words or characters of the references.
        rate: errors over reference tokens, a share; None if there are no reference tokens.
        ci95: interval of the rate of this one model, shares; None if it cannot be computed.
        utterances: how many were scored.
        failed: how many could not be transcribed; they are not counted in `errors`.
        truncated: how many transcripts were cut off at the limit of tokens.
        normalizer: profile and version, such as `basic@1`.
        speakers: number of speakers; None if an utterance has no speaker.
    """

    variant: str
    seed: int
    set: str
    metric: str
    errors: int
    reference_tokens: int
    rate: float | None
    ci95: tuple[float, float] | None
    utterances: int
    failed: int
    normalizer: str
    speakers: int | None = None
    truncated: int = 0


@dataclass(frozen=True)
class SeedMeanRow:
    """A row of `over_seeds`: a variant on a test set, over all its training seeds.

    Attributes:
        variant: name in the recipe.
        set: test set, or `pooled`.
        rate: mean over seeds, a share.
        deviation: sample standard deviation over seeds.
        ci95: interval of the recipe's rate, over seeds and utterances or speakers; None if it cannot be computed.
    """

    variant: str
    set: str
    rate: float
    deviation: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class ComparisonRow:
    """A row of `comparisons`: two variants on a test set.

    Attributes:
        a: variant.
        b: variant.
        set: test set, or `pooled`.
        difference: rate of a minus rate of b, a share; below zero a makes fewer errors.
        ci95: interval of the difference; None if it cannot be computed.
        p: two-sided p-value; None if there is no interval.
        test: name of the test, or why there is none.
        speaks_of: what `p` and `ci95` are valid for: the two models, or their recipes.
    """

    a: str
    b: str
    set: str
    difference: float
    ci95: tuple[float, float] | None
    p: float | None
    test: str
    speaks_of: str


@dataclass(frozen=True)
class SupportRow:
    """A row of `support`: the support of a model before OPD.

    Attributes:
        variant: the model that OPD starts from.
        seed: training seed.
        figures: vuss_mean, vuss_min, vuss_max, overlap_ratio and the other diagnostics.
        warnings: reasons why OPD may fail.
    """

    variant: str
    seed: int
    figures: Mapping[str, float]
    warnings: list[str]


@dataclass(frozen=True)
class Results:
    """All rows, in the order of the file."""

    scores: list[ScoreRow]
    over_seeds: list[SeedMeanRow]
    comparisons: list[ComparisonRow]
    support: list[SupportRow]


def read_results(path: Path) -> Results:
    """Read `results.json`.

    Raises:
        InputError: the file is missing or damaged, or a row lacks a key.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; the run is not finished, continue it with `arkasr run --resume`")
    document = read_json(path)
    try:
        return Results(
            scores=[_score(row) for row in [*document["rows"], *document.get("pooled", [])]],
            over_seeds=[_seed_mean(row) for row in document.get("over_seeds", [])],
            comparisons=[_comparison(row) for row in document.get("comparisons", [])],
            support=[_support(row) for row in document.get("support", [])],
        )
    except KeyError as error:
        raise InputError(f"{path}: no key {error.args[0]!r}; {REMEDY}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: a value is of the wrong kind ({error}); {REMEDY}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a run.

    Raises:
        InputError: the file is damaged or contains no object.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: damaged ({error}); {REMEDY}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected one object; {REMEDY}")
    return document


def _score(row: Mapping[str, Any]) -> ScoreRow:
    if row["set"] != POOLED and row["metric"] not in ("wer", "cer"):
        raise ValueError(f"metric {row['metric']!r} is neither wer nor cer")
    return ScoreRow(
        variant=row["variant"],
        seed=row["seed"],
        set=row["set"],
        metric=row["metric"],
        errors=row["errors"],
        reference_tokens=row["reference_tokens"],
        rate=row["rate"],
        ci95=_pair(row["ci95"]),
        utterances=row["utterances"],
        failed=row.get("failed", 0),
        normalizer=row["normalizer"],
        speakers=row.get("speakers"),
        truncated=row.get("truncated", 0),
    )


def _seed_mean(row: Mapping[str, Any]) -> SeedMeanRow:
    return SeedMeanRow(row["variant"], row["set"], float(row["rate"]), float(row["deviation"]), _pair(row["ci95"]))


def _comparison(row: Mapping[str, Any]) -> ComparisonRow:
    ci95, difference = _pair(row["ci95"]), float(row["difference"])
    p = None if row["p"] is None else float(row["p"])
    if (ci95 is None) != (p is None):
        raise ValueError("a comparison has a p and no ci95, or the reverse")
    return ComparisonRow(row["a"], row["b"], row["set"], difference, ci95, p, row["test"], row["speaks_of"])


def _support(row: Mapping[str, Any]) -> SupportRow:
    figures = {name: value for name, value in row.items() if isinstance(value, (int, float)) and name != "seed"}
    return SupportRow(row["variant"], row["seed"], figures, [str(warning) for warning in row.get("warnings", [])])


def _pair(values: Any) -> tuple[float, float] | None:
    if values is None:
        return None
    low, high = values
    return (float(low), float(high))
