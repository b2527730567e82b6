"""`inputs.json`: the sets and pretrained models that a run has used, so that a resumed run uses the same ones.

Each is recorded at its first use and compared at every later use. For a hub name the recorded commit is loaded. Only
rank 0 compares and writes. docs/training.md lists the changes that this cannot detect.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from arkasr import processes
from arkasr.data.manifests.identity import Difference, Identity, difference, identity_of, size_and_time
from arkasr.data.manifests.opening import LARGE_BYTES
from arkasr.errors import InputError
from arkasr.recipe.settings import LabelStageSettings, Recipe, Source, TrainingStageSettings
from arkasr.recognizers.load import commit_of
from arkasr.run.context import RunContext
from arkasr.run.folder import write_json
from arkasr.run.recorded_inputs import Record, read_record

SET_KEYS = ("train", "dev", "drafts", "audio")
MODEL_KEYS = ("start", "teacher")
UNKNOWN: dict[str, Any] = {"commit": None}  # the hub library did not report the commit


class Inputs:
    """The inputs of one run.

    Args:
        context: the run.

    Raises:
        InputError: `inputs.json` cannot be read or is damaged.
    """

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._recipe: Recipe = context.recipe
        self.path = context.folder.path / "inputs.json"
        self._record = read_record(self.path)
        self._new: Record = {"sets": {}, "models": {}}

    def check_stage(self, name: str) -> None:
        """Compare the sets and models of a stage with the record.

        Raises:
            InputError: one has changed. The message names it, the change and the remedy.
        """
        stage = self._recipe.stages[name]
        data_names, models = (
            [used for key in keys if (used := getattr(stage, key, None))] for keys in (SET_KEYS, MODEL_KEYS)
        )
        if isinstance(stage, TrainingStageSettings):
            data_names += stage.background_sets.values()
        self._check(data_names, models)

    def check_variant(self, name: str) -> None:
        """Compare the test sets and the model of a variant with the record.

        Raises:
            InputError: as `check_stage`.
        """
        self._check(self._recipe.evaluation.sets, [self._recipe.variants[name]])

    def check_test_sets(self) -> None:
        """Compare the test sets with the record.

        Raises:
            InputError: as `check_stage`.
        """
        self._check(self._recipe.evaluation.sets, [])

    def record(self) -> None:
        """Record those inputs of the last check that have no record yet.

        Returns on every rank once the file is written.

        Raises:
            InputError: the file cannot be written.
        """
        processes.broadcast_from_first(self._write_record)

    def _write_record(self) -> None:
        if not any(self._new.values()):
            return
        for kind, entries in self._new.items():
            self._record[kind] |= entries
        with _input_errors(self.path):
            write_json(self.path, self._record)

    def _check(self, data_names: Sequence[str], models: Sequence[str]) -> None:
        self._context.commits |= processes.broadcast_from_first(lambda: self._check_on_first_rank(data_names, models))

    def _check_on_first_rank(self, data_names: Sequence[str], models: Sequence[str]) -> dict[str, str]:
        """Compare on rank 0; returns the commit of each hub name, by the key that names it."""
        self._new = {"sets": {}, "models": {}}  # drop entries of an earlier check that `record` did not write
        commits = {}
        with _input_errors(self.path):
            for name in self._sets_used(data_names, models):
                if (manifest := self._recipe.sets[name].manifest) is not None:  # a streamed set has a revision instead
                    self._check_set(name, manifest)
            for key, source in self._sources_of(models).items():
                entry = self._check_model(key, source)
                if entry.get("commit"):
                    commits[key] = entry["commit"]
        return commits

    def _sources_of(self, models: Sequence[str]) -> dict[str, Source]:
        """The trained models that models of the recipe are loaded from, by key; none for models trained in this run."""
        sources = {
            f"models.{name}" if key == "pretrained" else f"models.{name}.{key}": source
            for name in models
            if name in self._recipe.models
            for key, source in self._recipe.models[name].sources.items()
        }
        tokenizer = self._recipe.tokenizer
        if self._are_any_new(models) and tokenizer is not None and tokenizer.source is not None:
            sources["tokenizer.pruned_from"] = tokenizer.source
        return sources

    def _are_any_new(self, models: Sequence[str]) -> bool:
        """Whether one of the models is built from a preset."""
        return any(self._recipe.models[name].preset is not None for name in models if name in self._recipe.models)

    def _sets_used(self, data_names: Sequence[str], models: Sequence[str]) -> list[str]:
        """The recipe's sets that are read.

        For labels this is the labelled set; for a model from a preset, the set of the tokenizer's texts.
        """
        used = []
        for name in data_names:
            stage = None if name in self._recipe.sets else self._recipe.stages[name]
            used.append(stage.audio if isinstance(stage, LabelStageSettings) else name)
        if self._are_any_new(models):
            used += [self._recipe.tokenizer.texts] if self._recipe.tokenizer is not None else []
        return list(dict.fromkeys(used))

    def _check_set(self, name: str, manifest: str) -> None:
        utterances = self._context.set(name)
        path = self._context.corpus / manifest
        if (stat := size_and_time(path)) is None:
            raise InputError(f"sets.{name}: {path}: no such manifest; restore it")
        # The built-in speech is generated again, byte for byte, if its cache was removed: file times then differ.
        is_generated = self._recipe.corpus.synthetic is not None and not Path(manifest).is_absolute()
        current = identity_of(utterances, by_lines=stat[0] >= LARGE_BYTES, times=not is_generated)
        recorded: Identity | None = self._record["sets"].get(name)
        if recorded is None:
            self._new["sets"][name] = current
        elif change := difference(recorded, current, utterances):
            raise self._changed(f"sets.{name}: {path}", change)

    def _check_model(self, key: str, source: Source) -> dict[str, Any]:
        name = key.removeprefix("models.")
        recorded = self._record["models"].get(name, UNKNOWN)
        if recorded != UNKNOWN and "commit" in recorded and not Path(source.name).is_dir():
            return recorded  # the recorded commit is loaded, even if the branch has moved
        current = _identity_of_model(source)
        if recorded == UNKNOWN:
            self._new["models"][name] = current
        elif change := _difference_of_models(recorded, current):
            raise self._changed(f"{key}: {source.name}", change)
        return current

    def _changed(self, name: str, change: Difference) -> InputError:
        copied = " (right if the files were only copied)" if change.only_time else ""
        return InputError(
            f"{name}: has changed since this run used it: {change.what}; {change.remedy}, or choose another --output; "
            f"to accept the new files for the remaining work, delete {self.path}{copied}"
        )


@contextmanager
def _input_errors(default: Path) -> Iterator[None]:
    """Turn OSError into InputError. `processes` sends only InputError to the ranks that wait."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{error.filename or default}: {error.strerror}; check path, permissions and space") from error


def _identity_of_model(source: Source) -> dict[str, Any]:
    """Size and modification time of a folder's files, or the commit of a hub name."""
    folder = Path(source.name)
    if not folder.is_dir():
        return {"commit": commit_of(source.name, source.revision)}
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return {"files": {path.name: list(size_and_time(path) or ()) for path in files}}


def _difference_of_models(recorded: dict[str, Any], current: dict[str, Any]) -> Difference | None:
    if recorded.keys() != current.keys():
        return Difference("it was a folder and is now a hub name, or the reverse")
    before, after = recorded["files"], current["files"]
    for name in [*before, *after]:
        if name not in after:
            return Difference(f"{name} is gone")
        if name not in before:
            return Difference(f"{name} is new", remedy="remove it")
        if before[name][:1] != after[name][:1]:
            return Difference(f"{name} has another size")
    rewritten = next((name for name in before if before[name] != after[name]), None)
    return Difference(f"{rewritten} was written at another time", only_time=True) if rewritten is not None else None
