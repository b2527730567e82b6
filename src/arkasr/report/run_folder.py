"""A finished run's folder as typed values: recipe, results, training metrics, transcripts.

In: the folder that `arkasr run` wrote. Out: a `Run`, whose larger files are read when asked for. Knows nothing of how
any of it is shown, and computes nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from arkasr.errors import InputError

POOLED = "pooled"  # the name that stands for all test sets together


@dataclass(frozen=True)
class Score:
    """One row of `results.json`: a variant on a test set.

    Attributes:
        variant: name in the recipe.
        seed: of the run.
        set: test set.
        metric: `wer` or `cer`.
        errors: substitutions, deletions and insertions.
        reference_tokens: words or characters of the references.
        rate: errors over reference tokens, a share; None where there are no reference tokens.
        ci95: interval of the rate, shares; None where there is none.
        utterances: how many were scored.
        failed: how many could not be transcribed and are in no count of errors.
        normalizer: profile and version, such as `basic@1`.
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


@dataclass(frozen=True)
class Comparison:
    """Two variants tested against each other.

    Attributes:
        a: variant.
        b: variant.
        set: test set, or `pooled`.
        difference: rate of a minus rate of b, a share; below zero a makes fewer errors.
        ci95: interval of the difference.
        p: two-sided probability of such a difference if a and b were equally good.
        test: name of the test.
    """

    a: str
    b: str
    set: str
    difference: float
    ci95: tuple[float, float]
    p: float
    test: str


@dataclass(frozen=True)
class Support:
    """Support of a model before OPD: `figures` has vuss_mean, vuss_min, vuss_max, overlap_ratio and what else was measured."""

    variant: str
    seed: int
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Stage:
    """A stage of the recipe; `start` is the stage or model that it continues, `steps` its own optimizer steps."""

    name: str
    kind: str
    start: str
    steps: int


@dataclass(frozen=True)
class Run:
    """A run's folder.

    Attributes:
        path: the folder.
        recipe_text: `recipe.yaml` as it is.
        recipe: `recipe.yaml`, parsed.
        environment: `environment.json`; empty where there is none.
        scores: rows of the results.
        comparisons: in the order of the results.
        support: rows of the support table.
    """

    path: Path
    recipe_text: str
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]
    scores: list[Score]
    comparisons: list[Comparison]
    support: list[Support]

    @property
    def name(self) -> str:
        """Of the recipe."""
        return str(self.recipe.get("name", self.path.name))

    @property
    def seeds(self) -> list[int]:
        """Of the recipe, in its order."""
        return list(self.recipe.get("seeds") or [0])

    @property
    def variants(self) -> list[str]:
        """Those that were scored, in the recipe's order."""
        scored = {score.variant for score in self.scores}
        return [name for name in self.recipe.get("variants") or {} if name in scored]

    @property
    def teachers(self) -> set[str]:
        """Variants whose weights score or label for another stage."""
        stages = (self.recipe.get("stages") or {}).values()
        weights = {stage.get("teacher") for stage in stages}
        weights |= {stage.get("start") for stage in stages if stage.get("kind") == "label"}
        return {name for name in self.variants if self.recipe["variants"][name] in weights}

    @property
    def students(self) -> list[str]:
        """The variants that are no teacher."""
        return [name for name in self.variants if name not in self.teachers]

    @property
    def test_sets(self) -> list[str]:
        """Test sets that were scored, in the order of the results."""
        return list(dict.fromkeys(score.set for score in self.scores if score.set != POOLED))

    @property
    def stages(self) -> list[Stage]:
        """Training stages, in the recipe's order."""
        return [
            Stage(name, stage["kind"], stage["start"], int(stage["optimization"]["steps"]))
            for name, stage in (self.recipe.get("stages") or {}).items()
            if "optimization" in stage
        ]

    def metrics(self, stage: str, seed: int) -> list[dict[str, float]]:
        """`metrics.jsonl` of a stage, a mapping a step; empty where the stage has none for this seed."""
        return _read_lines(self.path / "stages" / f"{stage}-seed{seed}" / "metrics.jsonl")

    def transcripts(self, variant: str, seed: int, test_set: str) -> list[dict[str, Any]]:
        """What a variant wrote for a test set, a mapping an utterance; empty where there is nothing for this seed."""
        return _read_lines(self.path / "evaluations" / f"{variant}-seed{seed}" / f"{test_set}.jsonl")


def read_run(path: Path) -> Run:
    """Read a run's folder.

    Raises:
        InputError: it is no run's folder, or a file in it is missing or damaged.
    """
    recipe_at, results_at = path / "recipe.yaml", path / "results.json"
    if not recipe_at.is_file():
        raise InputError(f"{path}: no run is in here (no recipe.yaml); give a folder that `arkasr run` has written")
    if not results_at.is_file():
        raise InputError(f"{results_at}: no such file; the run is not finished, continue it with `arkasr run --resume`")
    recipe_text = recipe_at.read_text(encoding="utf-8", errors="replace")
    try:
        recipe = yaml.safe_load(recipe_text)
    except yaml.YAMLError as error:
        raise InputError(f"{recipe_at}: not YAML: {' '.join(str(error).split())}; restore it, or run again") from error
    if not isinstance(recipe, dict):
        raise InputError(f"{recipe_at}: expected a mapping of keys; restore the file, or run again")
    results = _read_json(results_at)
    try:
        return Run(
            path=path,
            recipe_text=recipe_text,
            recipe=recipe,
            environment=_read_environment(path / "environment.json"),
            scores=[_score(row) for row in results["rows"]],
            comparisons=[_comparison(row) for row in results.get("comparisons", [])],
            support=[_support(row) for row in results.get("support", [])],
        )
    except KeyError as error:
        raise InputError(f"{results_at}: no key {error.args[0]!r}; {_REMEDY}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{results_at}: a value is of the wrong kind ({error}); {_REMEDY}") from error


_REMEDY = "delete the file and let `arkasr run --resume` write it again"


def _score(row: Mapping[str, Any]) -> Score:
    return Score(
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
    )


def _comparison(row: Mapping[str, Any]) -> Comparison:
    ci95 = _pair(row["ci95"])
    if ci95 is None:
        raise ValueError("ci95 of a comparison is null")
    return Comparison(row["a"], row["b"], row["set"], float(row["difference"]), ci95, float(row["p"]), row["test"])


def _support(row: Mapping[str, Any]) -> Support:
    figures = {name: value for name, value in row.items() if isinstance(value, (int, float)) and name != "seed"}
    return Support(row["variant"], row["seed"], figures)


def _pair(values: Any) -> tuple[float, float] | None:
    if values is None:
        return None
    low, high = values
    return (float(low), float(high))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: damaged ({error}); {_REMEDY}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected one object; {_REMEDY}")
    return document


def _read_environment(path: Path) -> dict[str, Any]:
    return _read_json(path) if path.is_file() else {}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            # A line cut short by a kill costs that line, not the page.
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
