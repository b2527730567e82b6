"""Writes the built-in corpus: a configuration goes in, a folder of FLAC files and manifests comes out.

A corpus appears under its name only when it is complete; an interrupted one is written anew. What is said and
how it sounds is decided elsewhere (`plan.py`, `record.py`).
"""

import hashlib
import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from arkasr.data.cache import cache_folder
from arkasr.data.corpora.plan import Line, SetPlan, SyntheticCorpusConfig, plan_corpus
from arkasr.data.corpora.record import record_lines
from arkasr.data.corpora.speakers import Speaker
from arkasr.data.manifests.manifest import write_manifest
from arkasr.errors import InputError
from arkasr.files import atomic_path
from arkasr.locks import locked

__all__ = ["SyntheticCorpusConfig", "corpus_cache_folder", "prepare_synthetic_corpus"]

GENERATOR_VERSION = 5  # raise it with every change that is heard or read in the corpus

_DESCRIPTION = "corpus.json"
_LINES_PER_JOB = 64
_LICENCE = (
    "Sentences: arkasr's own, Apache-2.0. Speech: synthesised by espeak-ng, a program under GPL-3.0-or-later "
    "of whose code the recordings hold nothing."
)


def corpus_cache_folder(config: SyntheticCorpusConfig) -> Path:
    """The corpus's place in the cache."""
    digest = hashlib.sha256(json.dumps(_identity(config), sort_keys=True).encode()).hexdigest()
    return cache_folder() / f"synthetic-{digest[:12]}"


def prepare_synthetic_corpus(
    config: SyntheticCorpusConfig, folder: Path, *, workers: int = 2, progress: bool = True
) -> Path:
    """The folder of the corpus of `config`, written if it is not there yet.

    It holds `train.jsonl`, `dev.jsonl`, one manifest a test set, `flac/` and `corpus.json`. Any number of
    processes may ask for the same folder at once: one writes, the others wait.

    Args:
        config: which corpus.
        folder: where; see `corpus_cache_folder`.
        workers: processes that speak; the audio does not depend on it.
        progress: show a progress bar.

    Raises:
        InputError: `folder` holds something else, or espeakng-loader is not installed.
    """
    if workers < 1:
        raise InputError(f"workers is {workers}; at least one process has to speak")
    folder = folder.absolute()
    if _is_complete(config, folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f".{folder.name}.lock")):
        if not _is_complete(config, folder):
            with atomic_path(folder) as writing:
                _write(config, writing, workers, progress)
    return folder


def _identity(config: SyntheticCorpusConfig) -> dict[str, Any]:
    """What two corpora have to share to be the same."""
    try:
        espeak = version("espeakng-loader")
    except PackageNotFoundError:
        raise InputError("the built-in speech needs espeakng-loader; pip install 'arkasr[quickstart]'") from None
    return {"config": asdict(config), "generator_version": GENERATOR_VERSION, "espeakng_loader": espeak}


def _is_complete(config: SyntheticCorpusConfig, folder: Path) -> bool:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    description = folder / _DESCRIPTION
    if not description.is_file():
        raise InputError(f"{folder} is not empty and holds no built-in corpus; choose another folder")
    found = json.loads(description.read_text(encoding="utf-8"))
    if any(found.get(key) != value for key, value in _identity(config).items()):
        raise InputError(f"{folder} holds another built-in corpus (see {_DESCRIPTION}); choose another folder")
    return True


def _write(config: SyntheticCorpusConfig, folder: Path, workers: int, progress: bool) -> None:
    plans = plan_corpus(config)
    for name in plans:
        (folder / "flac" / name).mkdir(parents=True)
    durations = _record_all(plans, folder, workers, progress)
    for name, plan in plans.items():
        rows = [
            {
                "audio": f"flac/{name}/{line.id}.flac",
                "text": line.text,
                "language": line.speaker.language,
                "speaker": line.speaker.id,
                "duration": duration,
                "id": line.id,
                "condition": line.condition.name,
            }
            for line, duration in zip(plan.lines, durations[name], strict=True)
        ]
        write_manifest(folder / f"{name}.jsonl", rows)
    sets = {name: {"utterances": len(of), "hours": round(sum(of) / 3600, 4)} for name, of in durations.items()}
    description = {**_identity(config), "licence": _LICENCE, "sets": sets}
    (folder / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _record_all(plans: dict[str, SetPlan], folder: Path, workers: int, progress: bool) -> dict[str, list[float]]:
    """Records every set into `folder/flac/<set>/`; the durations by set, in the order of its lines."""
    durations = {name: [0.0] * len(plan.lines) for name, plan in plans.items()}
    jobs = [(name, start) for name, plan in plans.items() for start in range(0, len(plan.lines), _LINES_PER_JOB)]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("speaking the built-in corpus", total=sum(map(len, durations.values())))
        for (name, start), recorded in _recorded(jobs, plans, folder, workers):
            durations[name][start : start + len(recorded)] = recorded
            bar.advance(task, len(recorded))
    return durations


def _recorded(
    jobs: list[tuple[str, int]], plans: dict[str, SetPlan], folder: Path, workers: int
) -> Iterator[tuple[tuple[str, int], list[float]]]:
    """Every job (a set and its first line to record) with the durations recorded, as they finish."""

    def arguments(name: str, start: int) -> tuple[list[Line], list[tuple[str, Speaker]], Path]:
        lines = plans[name].lines[start : start + _LINES_PER_JOB]
        return lines, plans[name].babble, folder / "flac" / name

    if workers == 1:
        yield from ((job, record_lines(*arguments(*job))) for job in jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        submitted = {pool.submit(record_lines, *arguments(*job)): job for job in jobs}
        try:
            yield from ((submitted[future], future.result()) for future in as_completed(submitted))
        finally:
            pool.shutdown(cancel_futures=True)
