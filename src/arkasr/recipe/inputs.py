"""What a run has used from outside its folder, so that no later use takes something else for it: `inputs.json`.

Sets and pretrained models are recorded when they are first used and compared at every later use. Only the first process
looks and writes. What this cannot see stands in docs/training.md.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from arkasr import processes
from arkasr.data.identity import Difference, Identity, difference, identity_of, size_and_time
from arkasr.data.opening import LARGE_BYTES
from arkasr.errors import InputError
from arkasr.recipe.folder import write_json
from arkasr.recipe.settings import ModelSettings, Recipe
from arkasr.recipe.workshop import Workshop
from arkasr.teacher.load import commit_of

SET_KEYS = ("train", "dev", "drafts", "audio")
MODEL_KEYS = ("start", "teacher")


class Inputs:
    """The inputs of one run.

    Args:
        workshop: has the recipe, its sets, and the run's folder.

    Raises:
        InputError: what is recorded cannot be read.
    """

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._recipe: Recipe = workshop.recipe
        self.path = workshop.folder.path / "inputs.json"
        self._recorded = _recorded(self.path)
        self._new: dict[str, dict[str, Any]] = {"sets": {}, "models": {}}

    def check_stage(self, name: str) -> None:
        """Compare what a stage is about to use with what is recorded.

        Raises:
            InputError: a set or a model is not what it was; names it, what has changed, and the remedy.
        """
        stage = self._recipe.stages[name]
        sets, models = (
            [used for key in keys if (used := getattr(stage, key, None))] for keys in (SET_KEYS, MODEL_KEYS)
        )
        self._check(sets, models)

    def check_variant(self, name: str) -> None:
        """Compare what the evaluation of a variant is about to use with what is recorded.

        Raises:
            InputError: as `check_stage`.
        """
        self._check(self._recipe.evaluation.sets, [self._recipe.variants[name]])

    def check_tests(self) -> None:
        """Compare the test sets with what is recorded.

        Raises:
            InputError: as `check_stage`.
        """
        self._check(self._recipe.evaluation.sets, [])

    def record(self) -> None:
        """Write down what was new to the checks since this was last called: it is used from now on."""
        if not any(self._new.values()):
            return
        for kind, found in self._new.items():
            self._recorded[kind] |= found
            found.clear()
        write_json(self.path, self._recorded)

    def _check(self, sets: Iterable[str], models: Iterable[str]) -> None:
        processes.decided(lambda: self._check_here(sets, models))

    def _check_here(self, sets: Iterable[str], models: Iterable[str]) -> None:
        used = [name for name in sets if name in self._recipe.sets]  # the others are labels of this run
        for name in models:
            model = self._recipe.models.get(name)  # the others are trained in this run
            if model is not None and model.pretrained is not None:
                self._check_model(name, model, model.pretrained)
            elif model is not None and self._recipe.tokenizer is not None:
                used.append(self._recipe.tokenizer.texts)
        for name in dict.fromkeys(used):
            if (manifest := self._recipe.sets[name].manifest) is not None:  # a streamed set has its revision
                self._check_set(name, manifest)

    def _check_set(self, name: str, manifest: str) -> None:
        utterances = self._workshop.set(name)
        path = self._workshop.corpus / manifest
        if (stat := size_and_time(path)) is None:
            raise InputError(f"{path}: no such manifest")
        # The built-in speech is made anew, byte for byte, where its cache was removed.
        made_anew = self._recipe.corpus.synthetic is not None and not Path(manifest).is_absolute()
        now = identity_of(utterances, by_lines=stat[0] >= LARGE_BYTES, times=not made_anew)
        was: Identity | None = self._recorded["sets"].get(name)
        if was is None:
            self._new["sets"][name] = now
        elif found := difference(was, now, utterances):
            raise self._changed(f"sets.{name}: {path}", found)

    def _check_model(self, name: str, model: ModelSettings, pretrained: str) -> None:
        now = _identity_of_model(pretrained, model.revision)
        was = self._recorded["models"].get(name)
        if was is None:
            self._new["models"][name] = now
        elif found := _difference_of_models(was, now):
            raise self._changed(f"models.{name}: {pretrained}", found)

    def _changed(self, name: str, found: Difference) -> InputError:
        remedy = "restore it, or choose another --output"
        if found.only_time:
            remedy += f"; if it is the same, copied, delete {self.path}"
        return InputError(f"{name}: is not what this run has used before: {found.what}; {remedy}")


def _identity_of_model(pretrained: str, revision: str | None) -> dict[str, Any]:
    """Size and time of a folder's files, or the commit of a hub name."""
    folder = Path(pretrained)
    if not folder.is_dir():
        return {"commit": commit_of(pretrained, revision)}
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return {"files": {path.name: list(size_and_time(path) or ()) for path in files}}


def _difference_of_models(was: dict[str, Any], now: dict[str, Any]) -> Difference | None:
    if was.keys() != now.keys():
        return Difference("it was a folder, or a hub name, and is now the other")
    if "commit" in now:
        return Difference(f"it is of commit {now['commit']} and was of {was['commit']}") if was != now else None
    before, after = was["files"], now["files"]
    for name in [*before, *after]:
        if name not in after:
            return Difference(f"{name} is gone")
        if name not in before:
            return Difference(f"{name} is new")
        if before[name][:1] != after[name][:1]:
            return Difference(f"{name} has another size")
    later = next((name for name in before if before[name] != after[name]), None)
    return Difference(f"{later} was written at another time", only_time=True) if later is not None else None


def _recorded(path: Path) -> dict[str, dict[str, Any]]:
    """What is recorded in a file; nothing where there is none, as in runs of before it was kept."""
    if not path.exists():
        return {"sets": {}, "models": {}}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {kind: dict(document[kind]) for kind in ("sets", "models")}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read; delete it, and what the run uses now is recorded anew") from error
