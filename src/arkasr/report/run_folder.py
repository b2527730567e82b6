"""A finished run's folder as typed values: recipe, results, training metrics, transcripts.

In: the folder that `arkasr run` wrote. Out: a `Run`; its metrics and transcripts are read on demand.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arkasr import plain_yaml
from arkasr.errors import InputError
from arkasr.report.results import (
    POOLED,
    REMEDY,
    ComparisonRow,
    ScoreRow,
    SeedMeanRow,
    SupportRow,
    read_json,
    read_results,
)


@dataclass(frozen=True)
class TrainedStage:
    """A training stage; `start` is the stage or model that it starts from, `steps` its number of optimizer steps."""

    name: str
    kind: str
    start: str
    steps: int


@dataclass(frozen=True)
class Run:
    """A run's folder.

    Attributes:
        path: the folder.
        recipe_text: `recipe.yaml`, not parsed.
        recipe: `recipe.yaml`, parsed.
        environment: `environment.json`; empty if there is none.
        scores: rows of the results, one per variant, seed and test set.
        over_seeds: means of the variants with several seeds.
        comparisons: in the order of the results.
        support: rows of the support table.
    """

    path: Path
    recipe_text: str
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]
    scores: list[ScoreRow]
    over_seeds: list[SeedMeanRow]
    comparisons: list[ComparisonRow]
    support: list[SupportRow]

    @property
    def name(self) -> str:
        """The recipe's name."""
        return str(self.recipe.get("name", self.path.name))

    @property
    def seeds(self) -> list[int]:
        """The recipe's seeds, in its order."""
        return list(self.recipe.get("seeds") or [0])

    @property
    def variants(self) -> list[str]:
        """Variants with a score, in the recipe's order."""
        scored = {score.variant for score in self.scores}
        return [name for name in self.recipe.get("variants") or {} if name in scored]

    @property
    def teachers(self) -> set[str]:
        """Variants whose model is the teacher of another stage."""
        stages = (self.recipe.get("stages") or {}).values()
        weights = {stage.get("teacher") for stage in stages}
        weights |= {stage.get("start") for stage in stages if stage.get("kind") == "label"}
        return {name for name in self.variants if self.recipe["variants"][name] in weights}

    @property
    def students(self) -> list[str]:
        """Variants that are not teachers."""
        return [name for name in self.variants if name not in self.teachers]

    @property
    def test_sets(self) -> list[str]:
        """Test sets with a score, in the order of the results."""
        return list(dict.fromkeys(score.set for score in self.scores if score.set != POOLED))

    @property
    def resampled(self) -> str:
        """The unit that the intervals resample: `utterances` or `speakers`."""
        return f"{(self.recipe.get('evaluation') or {}).get('resample', 'utterance')}s"

    @property
    def stages(self) -> list[TrainedStage]:
        """Training stages, in the recipe's order."""
        return [
            TrainedStage(name, stage["kind"], stage["start"], int(stage["optimization"]["steps"]))
            for name, stage in (self.recipe.get("stages") or {}).items()
            if "optimization" in stage
        ]

    def metrics(self, stage: str, seed: int) -> list[dict[str, float]]:
        """`metrics.jsonl` of a stage, one mapping per step; empty if the stage has none for this seed."""
        return _read_lines(self._of_seed("stages", stage, seed) / "metrics.jsonl")

    def transcripts(self, variant: str, seed: int, test_set: str) -> list[dict[str, Any]]:
        """A variant's transcripts of a test set, one mapping per utterance; empty if there are none."""
        return _read_lines(self._of_seed("evaluations", variant, seed) / f"{test_set}.jsonl")

    def _of_seed(self, kind: str, name: str, seed: int) -> Path:
        return self.path / kind / (name if seed == self.seeds[0] else f"{name}-seed{seed}")


def read_run(path: Path) -> Run:
    """Read a run's folder.

    Raises:
        InputError: it is not the folder of a run, or a file in it is missing or damaged.
    """
    recipe_path, environment_path = path / "recipe.yaml", path / "environment.json"
    if not recipe_path.is_file():
        raise InputError(f"{path}: contains no run (no recipe.yaml); give a folder that `arkasr run` wrote")
    recipe_text = recipe_path.read_text(encoding="utf-8", errors="replace")
    results = read_results(path / "results.json")
    run = Run(
        path=path,
        recipe_text=recipe_text,
        recipe=_parse_recipe(recipe_text, recipe_path),
        environment=read_json(environment_path) if environment_path.is_file() else {},
        scores=results.scores,
        over_seeds=results.over_seeds,
        comparisons=results.comparisons,
        support=results.support,
    )
    if not run.variants:
        raise InputError(f"{path / 'results.json'}: no row is of a variant of {recipe_path.name}; {REMEDY}")
    return run


def _parse_recipe(text: str, path: Path) -> dict[str, Any]:
    try:
        recipe = plain_yaml.load(text)
    except plain_yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())}); run the recipe again") from error
    if not isinstance(recipe, dict):
        raise InputError(f"{path}: expected keys and values; run the recipe again")
    return recipe


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            # The last line of a killed run may be incomplete.
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
