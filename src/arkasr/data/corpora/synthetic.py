"""Writes the built-in corpus: a configuration goes in, a folder of FLAC files and manifests comes out.

A corpus appears under its name only when it is complete. An interrupted one is written again from the start.
`specs.py` chooses sentences and voices, `synthesis.py` makes the audio.
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
from arkasr.data.corpora.espeak import NOT_INSTALLED
from arkasr.data.corpora.speakers import Speaker
from arkasr.data.corpora.specs import SetSpec, SyntheticCorpusConfig, UtteranceSpec, corpus_specs
from arkasr.data.corpora.synthesis import write_recordings
from arkasr.data.manifests.manifest import write_manifest
from arkasr.errors import InputError
from arkasr.files import atomic_path
from arkasr.locks import locked

__all__ = ["SyntheticCorpusConfig", "corpus_cache_folder", "prepare_synthetic_corpus"]

GENERATOR_VERSION = 5  # raise it with every change of the corpus's audio or text

_DESCRIPTION = "corpus.json"
_UTTERANCES_PER_JOB = 64
_LICENCE = (
    "Sentences: arkasr's own, Apache-2.0. Speech: synthesised by espeak-ng, a program under GPL-3.0-or-later "
    "of whose code the recordings hold nothing."
)


def corpus_cache_folder(config: SyntheticCorpusConfig) -> Path:
    """The folder of a corpus in the cache."""
    digest = hashlib.sha256(json.dumps(_identity(config), sort_keys=True).encode()).hexdigest()
    return cache_folder() / f"synthetic-{digest[:12]}"


def prepare_synthetic_corpus(
    config: SyntheticCorpusConfig, folder: Path, *, workers: int = 2, progress: bool = True
) -> Path:
    """Write the corpus of `config` to `folder` unless it is already there; returns the folder.

    The folder holds `train.jsonl`, `dev.jsonl`, one manifest per test set, `flac/` and `corpus.json`. Any number of
    processes may call this for the same folder at once: one writes, the others wait.

    Args:
        config: of the corpus.
        folder: usually `corpus_cache_folder(config)`.
        workers: processes that synthesise speech; the audio does not depend on it.
        progress: show a progress bar.

    Raises:
        InputError: `folder` holds other files or another corpus, or espeakng-loader is not installed.
    """
    if workers < 1:
        raise InputError(f"workers is {workers}; the built-in corpus needs at least 1")
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
    """What determines the content of a corpus: configuration, generator version and espeak-ng version."""
    try:
        espeak = version("espeakng-loader")
    except PackageNotFoundError:
        raise InputError(NOT_INSTALLED) from None
    return {"config": asdict(config), "generator_version": GENERATOR_VERSION, "espeakng_loader": espeak}


def _is_complete(config: SyntheticCorpusConfig, folder: Path) -> bool:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    description = folder / _DESCRIPTION
    if not description.is_file():
        raise InputError(f"{folder}: is not empty and holds no built-in corpus; choose another folder")
    existing = json.loads(description.read_text(encoding="utf-8"))
    if any(existing.get(key) != value for key, value in _identity(config).items()):
        raise InputError(f"{folder}: holds another built-in corpus (see {_DESCRIPTION}); choose another folder")
    return True


def _write(config: SyntheticCorpusConfig, folder: Path, workers: int, progress: bool) -> None:
    specs = corpus_specs(config)
    for name in specs:
        (folder / "flac" / name).mkdir(parents=True)
    durations = _synthesise_all(specs, folder, workers, progress)
    for name, spec in specs.items():
        rows = [
            {
                "audio": f"flac/{name}/{utterance.id}.flac",
                "text": utterance.text,
                "language": utterance.speaker.language,
                "speaker": utterance.speaker.id,
                "duration": duration,
                "id": utterance.id,
                "condition": utterance.condition.name,
            }
            for utterance, duration in zip(spec.utterances, durations[name], strict=True)
        ]
        write_manifest(folder / f"{name}.jsonl", rows)
    sets = {
        name: {"utterances": len(seconds), "hours": round(sum(seconds) / 3600, 4)}
        for name, seconds in durations.items()
    }
    description = {**_identity(config), "licence": _LICENCE, "sets": sets}
    (folder / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _synthesise_all(specs: dict[str, SetSpec], folder: Path, workers: int, progress: bool) -> dict[str, list[float]]:
    """Writes the audio of every set into `folder/flac/<set>/`; returns durations by set, in order."""
    durations = {name: [0.0] * len(spec.utterances) for name, spec in specs.items()}
    jobs = [
        (name, start) for name, spec in specs.items() for start in range(0, len(spec.utterances), _UTTERANCES_PER_JOB)
    ]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("synthesising the built-in corpus", total=sum(map(len, durations.values())))
        for (name, start), finished in _finished_jobs(jobs, specs, folder, workers):
            durations[name][start : start + len(finished)] = finished
            bar.advance(task, len(finished))
    return durations


def _finished_jobs(
    jobs: list[tuple[str, int]], specs: dict[str, SetSpec], folder: Path, workers: int
) -> Iterator[tuple[tuple[str, int], list[float]]]:
    """Each job (a set and the number of its first utterance) with its durations, as the jobs finish."""

    def arguments(name: str, start: int) -> tuple[list[UtteranceSpec], list[tuple[str, Speaker]], Path]:
        utterances = specs[name].utterances[start : start + _UTTERANCES_PER_JOB]
        return utterances, specs[name].babble, folder / "flac" / name

    if workers == 1:
        yield from ((job, write_recordings(*arguments(*job))) for job in jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        submitted = {pool.submit(write_recordings, *arguments(*job)): job for job in jobs}
        try:
            yield from ((submitted[future], future.result()) for future in as_completed(submitted))
        finally:
            pool.shutdown(cancel_futures=True)
