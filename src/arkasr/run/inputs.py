"""What a run has used from outside its folder, so that no later use takes something else for it: `inputs.json`.

Sets and pretrained models are recorded when they are first used and compared at every later use; of a hub name the
recorded commit is loaded. Only the first process looks and writes. What this cannot see stands in docs/training.md.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from arkasr import processes
from arkasr.data.manifests.identity import Difference, Identity, difference, identity_of, size_and_time
from arkasr.data.manifests.opening import LARGE_BYTES
from arkasr.errors import InputError
from arkasr.recipe.settings import LabelStageSettings, ModelSettings, Recipe
from arkasr.recognizers.load import commit_of
from arkasr.run.context import RunContext
from arkasr.run.folder import write_json
from arkasr.run.recorded_inputs import Record, read_record

SET_KEYS = ("train", "dev", "drafts", "audio")
MODEL_KEYS = ("start", "teacher")
UNKNOWN: dict[str, Any] = {"commit": None}  # of a hub name, where the hub's library does not say


class Inputs:
    """The inputs of one run.

    Args:
        context: has the recipe, its sets, and the run's folder.

    Raises:
        InputError: what is recorded cannot be read, or is damaged.
    """

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._recipe: Recipe = context.recipe
        self.path = context.folder.path / "inputs.json"
        self._recorded = read_record(self.path)
        self._new: Record = {"sets": {}, "models": {}}

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
        """Write down what was new to the last check; no process goes on before it is written.

        Raises:
            InputError: the file cannot be written.
        """
        processes.broadcast_from_first(self._record_here)

    def _record_here(self) -> None:
        if not any(self._new.values()):
            return
        for kind, found in self._new.items():
            self._recorded[kind] |= found
        with _input_errors(self.path):
            write_json(self.path, self._recorded)

    def _check(self, sets: Sequence[str], models: Sequence[str]) -> None:
        self._context.commits |= processes.broadcast_from_first(lambda: self._check_here(sets, models))

    def _check_here(self, sets: Sequence[str], models: Sequence[str]) -> dict[str, str]:
        """Compare; returns the commit of each hub name."""
        self._new = {"sets": {}, "models": {}}  # what an earlier check has found may never have been used
        commits = {}
        with _input_errors(self.path):
            for name in self._sets_behind(sets, models):
                if (manifest := self._recipe.sets[name].manifest) is not None:  # a streamed set has its revision
                    self._check_set(name, manifest)
            for name in models:
                model = self._recipe.models.get(name)  # the others are trained in this run
                if model is not None and model.pretrained is not None:
                    found = self._check_model(name, model, model.pretrained)
                    if found.get("commit"):
                        commits[name] = found["commit"]
        return commits

    def _sets_behind(self, sets: Sequence[str], models: Sequence[str]) -> list[str]:
        """The recipe's sets among some names, what the labels among them are labels of, and the base vocabulary's."""
        used = []
        for name in sets:
            stage = None if name in self._recipe.sets else self._recipe.stages[name]
            used.append(stage.audio if isinstance(stage, LabelStageSettings) else name)
        if any(self._recipe.models[name].pretrained is None for name in models if name in self._recipe.models):
            used += [self._recipe.tokenizer.texts] if self._recipe.tokenizer is not None else []
        return list(dict.fromkeys(used))

    def _check_set(self, name: str, manifest: str) -> None:
        utterances = self._context.set(name)
        path = self._context.corpus / manifest
        if (stat := size_and_time(path)) is None:
            raise InputError(f"sets.{name}: {path}: no such manifest; restore it")
        # The built-in speech is made anew, byte for byte, where its cache was removed.
        made_anew = self._recipe.corpus.synthetic is not None and not Path(manifest).is_absolute()
        now = identity_of(utterances, by_lines=stat[0] >= LARGE_BYTES, times=not made_anew)
        was: Identity | None = self._recorded["sets"].get(name)
        if was is None:
            self._new["sets"][name] = now
        elif found := difference(was, now, utterances):
            raise self._changed(f"sets.{name}: {path}", found)

    def _check_model(self, name: str, model: ModelSettings, pretrained: str) -> dict[str, Any]:
        was = self._recorded["models"].get(name, UNKNOWN)
        if was != UNKNOWN and "commit" in was and not Path(pretrained).is_dir():
            return was  # it is what is loaded, wherever a branch points to by now
        now = _identity_of_model(pretrained, model.revision)
        if was == UNKNOWN:
            self._new["models"][name] = now
        elif found := _difference_of_models(was, now):
            raise self._changed(f"models.{name}: {pretrained}", found)
        return now

    def _changed(self, name: str, found: Difference) -> InputError:
        copied = ", as is right for a copy" if found.only_time else ""
        return InputError(
            f"{name}: is not what this run has used before: {found.what}; {found.remedy}, or choose another --output; "
            f"deleting {self.path} accepts what is there now for what is still to be computed{copied}"
        )


@contextmanager
def _input_errors(record: Path) -> Iterator[None]:
    """What the system refuses to the first process must be told to the others, which wait for it."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{error.filename or record}: {error.strerror}; check path, permissions and space") from error


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
    before, after = was["files"], now["files"]
    for name in [*before, *after]:
        if name not in after:
            return Difference(f"{name} is gone")
        if name not in before:
            return Difference(f"{name} is new", remedy="remove it")
        if before[name][:1] != after[name][:1]:
            return Difference(f"{name} has another size")
    later = next((name for name in before if before[name] != after[name]), None)
    return Difference(f"{later} was written at another time", only_time=True) if later is not None else None
