"""A recipe from its first stage to the report; what is finished is not done again."""

import json
import time
from pathlib import Path

import torch

from arkasr.recipe.environment import describe_environment
from arkasr.recipe.evaluation import collect_results, evaluate_variant
from arkasr.recipe.folder import RunFolder
from arkasr.recipe.progress import Progress
from arkasr.recipe.settings import LabelStageSettings, OpdStageSettings, Recipe
from arkasr.recipe.stages import build_stage, run_calibration, run_label_stage, run_training_stage
from arkasr.recipe.workshop import Workshop
from arkasr.report.page import write_report
from arkasr.train.calibrate import Calibration


def run_recipe(recipe: Recipe, path: Path, *, resume: bool, progress: Progress) -> RunFolder:
    """Run every stage for every seed, evaluate every variant, write `results.json` and `report.html`.

    Args:
        recipe: checked.
        path: the run's folder.
        resume: continue a run that is there.
        progress: shows what is at work.

    Raises:
        InputError: the folder or the data is not as the recipe needs it.
    """
    folder = RunFolder.create(path, recipe, resume=resume)
    workshop = Workshop(recipe, folder, default_device())
    started = time.monotonic() - seconds_so_far(folder)
    folder.write_json("environment.json", describe_environment() | {"seconds": time.monotonic() - started})
    for seed in recipe.seeds:
        for name in recipe.stages:
            if workshop.seed_of(name, seed) == seed:
                run_stage(workshop, name, seed, progress)
        for variant, name in recipe.variants.items():
            if workshop.seed_of(name, seed) == seed:
                evaluate_variant(workshop, variant, seed, progress)
    if recipe.evaluation.sets:
        folder.write_json("results.json", collect_results(workshop))
    folder.write_json("environment.json", describe_environment() | {"seconds": time.monotonic() - started})
    if recipe.evaluation.sets:
        write_report(path)
    return folder


def seconds_so_far(folder: RunFolder) -> float:
    """What earlier sittings of a run have taken."""
    path = folder.path / "environment.json"
    return float(json.loads(path.read_text(encoding="utf-8")).get("seconds", 0.0)) if path.exists() else 0.0


def run_stage(workshop: Workshop, name: str, seed: int, progress: Progress) -> None:
    """Run one stage, unless it is finished."""
    settings = workshop.recipe.stages[name]
    if isinstance(settings, LabelStageSettings):
        if not workshop.folder.labels(name, seed).exists():
            run_label_stage(workshop, name, seed, settings, progress)
    elif not workshop.folder.model(name, seed).exists():
        run_training_stage(workshop, name, seed, settings, progress)


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def run_one_stage(recipe: Recipe, name: str, path: Path, *, resume: bool, progress: Progress) -> Path:
    """Run a single training stage for the first seed; what it starts from must be there.

    Returns:
        The folder of the trained model.
    """
    folder = RunFolder.create(path, recipe, resume=resume)
    workshop = Workshop(recipe, folder, default_device())
    folder.write_json("environment.json", describe_environment())
    run_stage(workshop, name, recipe.seeds[0], progress)
    return folder.model(name, recipe.seeds[0])


def calibrate_stage(recipe: Recipe, name: str, path: Path) -> Calibration:
    """Measure what an OPD stage would start from, without a step; nothing is written."""
    settings = recipe.stages[name]
    assert isinstance(settings, OpdStageSettings)
    workshop = Workshop(recipe, RunFolder(path), default_device())
    seed = recipe.seeds[0]
    stage = build_stage(workshop, workshop.recognizer(settings.start, seed), settings, seed)
    return run_calibration(workshop, stage, settings, seed)
