"""The folder of a run: its paths, and the check that a resumed run has the same recipe.

Files and model folders are written under another name and then renamed. So a file with its final name is complete.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arkasr import plain_yaml
from arkasr.errors import InputError
from arkasr.files import atomic_path, write_atomically
from arkasr.recipe.load import parse, read_yaml
from arkasr.recipe.settings import Recipe, ServedSettings
from arkasr.recognizers.recognizer import Recognizer


class RunFolder:
    """Paths of a run; `first_seed` is the first of the recipe's seeds."""

    def __init__(self, path: Path, first_seed: int) -> None:
        self.path = path
        self.first_seed = first_seed

    @classmethod
    def create(cls, path: Path, recipe: Recipe, *, resume: bool) -> "RunFolder":
        """Open or create the folder for `recipe`.

        Raises:
            InputError: it holds a run and `resume` is false, or it holds a run of another recipe.
        """
        folder = cls(path, recipe.seeds[0])
        stored_path = path / "recipe.yaml"
        document = plain_yaml.dump(recipe.model_dump(mode="json"))
        if not stored_path.exists():
            write_text(stored_path, document)
            return folder
        if not resume:
            raise InputError(f"{path} already holds a run; add --resume to continue it, or choose another --output")
        # A key that is newer than the run gets its default, or the behaviour from before it existed.
        stored = parse(Recipe, _with_former_defaults(read_yaml(stored_path)), str(stored_path))
        if difference := _first_difference(_fixed_part(stored), _fixed_part(recipe)):
            raise InputError(
                f"{stored_path}: {difference} differs from the recipe given; "
                "choose another --output for a changed recipe"
            )
        if stored != recipe:
            write_text(stored_path, document)
        return folder

    def stage(self, name: str, seed: int) -> Path:
        """Folder of one stage: `NAME` for the first seed, `NAME-seedN` for the others."""
        return self.path / "stages" / self._of_seed(name, seed)

    def model(self, name: str, seed: int) -> Path:
        """Folder of a stage's trained model; it exists once the stage is finished."""
        return self.stage(name, seed) / "model"

    def labels(self, name: str, seed: int) -> Path:
        """Manifest of a label stage; it exists once the stage is finished."""
        return self.stage(name, seed) / "labels.jsonl"

    @property
    def teacher_cache(self) -> Path:
        """Folder of the teachers' answers; the run works without it, and removes it at its end."""
        return self.path / "teacher-cache"

    def predictions(self, variant: str, seed: int, set_name: str) -> Path:
        """Transcripts of a test set by a variant; the file exists once all are written."""
        return self.path / "evaluations" / self._of_seed(variant, seed) / f"{set_name}.jsonl"

    def prediction_parts(self, variant: str, seed: int, set_name: str) -> Path:
        """Folder of the transcripts so far, in parts; removed once `predictions` is written."""
        return self.predictions(variant, seed, set_name).with_suffix(".parts")

    def save_model(
        self, recognizer: Recognizer, name: str, seed: int, weights: Mapping[str, Any] | None = None
    ) -> None:
        """Write the trained model of a stage, which marks the stage as finished.

        Args:
            recognizer: the model.
            name: of the stage.
            seed: of the stage.
            weights: the full state dict if the model itself is sharded.
        """
        with atomic_path(self.model(name, seed)) as writing:
            recognizer.save(writing, weights)

    def _of_seed(self, name: str, seed: int) -> str:
        return name if seed == self.first_seed else f"{name}-seed{seed}"


def write_text(path: Path, text: str) -> None:
    """Write a file atomically."""
    write_atomically(path, [text])


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file atomically; a float that is not finite raises ValueError."""
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _with_former_defaults(stored: Any) -> Any:
    """The stored recipe; a missing key whose default has changed the behaviour gets the former behaviour."""
    for stage in stored.get("stages", {}).values():
        if stage.get("kind") == "opd":
            stage.setdefault("objective", {}).setdefault("looping", "keep")
    return stored


def _fixed_part(recipe: Recipe) -> Any:
    """The recipe without the keys that may change between starts of a run.

    These keys say how a served teacher is reached and checked, or how the transcripts are compared. Comparisons and
    intervals are computed again at every start.
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
            inner_key = f"{key}.{name}" if key else str(name)
            if name not in stored or name not in given:
                return inner_key
            if difference := _first_difference(stored[name], given[name], inner_key):
                return difference
        return None
    return None if stored == given else key
