"""A run's folder: where everything is, and what a resumed run may rely on.

What exists under its final name is whole: files and model folders are written elsewhere and renamed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from arkasr.errors import InputError
from arkasr.files import atomic_path, write_atomically
from arkasr.model.recognizer import Recognizer
from arkasr.recipe.load import parse, read_yaml
from arkasr.recipe.settings import Recipe, ServedSettings


class RunFolder:
    """Paths of a run; `first_seed` is the recipe's."""

    def __init__(self, path: Path, first_seed: int) -> None:
        self.path = path
        self.first_seed = first_seed

    @classmethod
    def create(cls, path: Path, recipe: Recipe, *, resume: bool) -> "RunFolder":
        """Open the folder for `recipe`.

        Raises:
            InputError: there is a run already and `resume` is not asked for, or it is of another recipe.
        """
        folder = cls(path, recipe.seeds[0])
        stored_at = path / "recipe.yaml"
        document = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        if not stored_at.exists():
            write_text(stored_at, document)
            return folder
        if not resume:
            raise InputError(f"{path} already holds a run; add --resume to continue it, or choose another --output")
        # A run that was begun before a key existed has that key's default, or what was done then.
        stored = parse(Recipe, _as_it_was(read_yaml(stored_at)), str(stored_at))
        if difference := _first_difference(_binding(stored), _binding(recipe)):
            raise InputError(
                f"{stored_at}: {difference} differs from the recipe given; choose another --output for a changed recipe"
            )
        if stored != recipe:
            write_text(stored_at, document)
        return folder

    def stage(self, name: str, seed: int) -> Path:
        """Folder of one stage: its name, and behind it every seed but the first, which says `-seedN`."""
        return self.path / "stages" / self._of_seed(name, seed)

    def model(self, name: str, seed: int) -> Path:
        """The trained model of a stage; exists when the stage is finished."""
        return self.stage(name, seed) / "model"

    def labels(self, name: str, seed: int) -> Path:
        """The manifest of a label stage; exists when the stage is finished."""
        return self.stage(name, seed) / "labels.jsonl"

    def predictions(self, variant: str, seed: int, set_name: str) -> Path:
        """What a variant wrote for a test set; exists when it has been evaluated."""
        return self.path / "evaluations" / self._of_seed(variant, seed) / f"{set_name}.jsonl"

    def prediction_parts(self, variant: str, seed: int, set_name: str) -> Path:
        """Folder of what a variant has written of a test set so far; gone when the set is done."""
        return self.predictions(variant, seed, set_name).with_suffix(".parts")

    def save_model(
        self, recognizer: Recognizer, name: str, seed: int, weights: Mapping[str, Any] | None = None
    ) -> None:
        """Write the trained model of a stage, which marks the stage as finished.

        Args:
            recognizer: the model.
            name: of the stage.
            seed: of the stage.
            weights: the model's state dict where the model itself does not hold them whole.
        """
        with atomic_path(self.model(name, seed)) as writing:
            recognizer.save(writing, weights)

    def _of_seed(self, name: str, seed: int) -> str:
        return name if seed == self.first_seed else f"{name}-seed{seed}"


def write_text(path: Path, text: str) -> None:
    """Write a file; it appears under its name when it is complete."""
    write_atomically(path, [text])


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file as `write_text` does; floats that are not finite are an error, not `NaN`."""
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _as_it_was(stored: Any) -> Any:
    """The stored recipe with what was done before there was a key for it, where the default is something else."""
    for stage in stored.get("stages", {}).values():
        if stage.get("kind") == "opd":
            stage.setdefault("objective", {}).setdefault("looping", "keep")
    return stored


def _binding(recipe: Recipe) -> Any:
    """The recipe without what may change while a run lasts.

    That is where a teacher is served and how patiently it is asked, and what is computed anew from the transcripts:
    which variants are compared, and what is drawn for intervals.
    """
    served = set(ServedSettings.model_fields) - {"scores", "best_tokens"}
    return recipe.model_dump(
        mode="json",
        exclude={
            "models": {name: {"served": served} for name in recipe.models},
            "evaluation": {"comparisons", "resample", "samples"},
        },
    )


def _first_difference(stored: Any, given: Any, key: str = "") -> str | None:
    if isinstance(stored, dict) and isinstance(given, dict):
        for name in [*stored, *given]:
            place = f"{key}.{name}" if key else str(name)
            if name not in stored or name not in given:
                return place
            if difference := _first_difference(stored[name], given[name], place):
                return difference
        return None
    return None if stored == given else key
