"""A run's folder: where everything is, and what a resumed run may rely on.

What exists under its final name is whole: files and model folders are written elsewhere and renamed.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from arkasr.data.manifest import write_manifest
from arkasr.errors import InputError
from arkasr.model.recognizer import Recognizer
from arkasr.recipe.settings import Recipe


class RunFolder:
    """Paths of a run and atomic writes into them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, recipe: Recipe, *, resume: bool) -> "RunFolder":
        """Open the folder for `recipe`.

        Raises:
            InputError: there is a run already and `resume` is not asked for, or it is of another recipe.
        """
        folder = cls(path)
        document = recipe.model_dump(mode="json")
        stored_at = path / "recipe.yaml"
        if not stored_at.exists():
            folder.write_text("recipe.yaml", yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
            return folder
        if not resume:
            raise InputError(f"{path} already holds a run; add --resume to continue it, or choose another --output")
        stored = yaml.safe_load(stored_at.read_text(encoding="utf-8"))
        if difference := _first_difference(stored, document):
            raise InputError(
                f"{stored_at}: {difference} differs from the recipe given; choose another --output for a changed recipe"
            )
        return folder

    def stage(self, name: str, seed: int) -> Path:
        """Folder of one stage for one seed."""
        return self.path / "stages" / f"{name}-seed{seed}"

    def model(self, name: str, seed: int) -> Path:
        """The trained model of a stage; exists when the stage is finished."""
        return self.stage(name, seed) / "model"

    def labels(self, name: str, seed: int) -> Path:
        """The manifest of a label stage; exists when the stage is finished."""
        return self.stage(name, seed) / "labels.jsonl"

    def predictions(self, variant: str, seed: int, set_name: str) -> Path:
        """What a variant wrote for a test set; exists when it has been evaluated."""
        return self.path / "evaluations" / f"{variant}-seed{seed}" / f"{set_name}.jsonl"

    def write_text(self, name: str, text: str) -> Path:
        """Write a file of the run."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        writing = target.with_name(f".{target.name}.writing")
        writing.write_text(text, encoding="utf-8")
        return writing.replace(target)

    def write_json(self, name: str, document: Any) -> Path:
        """Write a JSON file of the run; floats that are not finite are an error, not `NaN`."""
        return self.write_text(name, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    def write_rows(self, path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write JSON Lines under the run."""
        write_manifest(path, rows)

    def save_model(self, recognizer: Recognizer, name: str, seed: int) -> None:
        """Write the trained model of a stage, which marks the stage as finished."""
        target = self.model(name, seed)
        writing = target.with_name(".model.writing")
        recognizer.save(writing)
        writing.replace(target)


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
