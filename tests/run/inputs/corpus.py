"""A small corpus and a recipe that uses it. Tests change the inputs between two sessions of a run."""

import json
import os

import torch

from arkasr.recipe.load import parse
from arkasr.recipe.settings import Recipe
from arkasr.run.context import RunContext
from arkasr.run.folder import RunFolder
from arkasr.run.inputs import Inputs

STEP = {"steps": 1, "batch_seconds": 10, "learning_rate": 1e-3}
FIRST_COMMIT, SECOND_COMMIT = "1" * 40, "2" * 40
FILE_TIME = 1_000_000_000  # modification time of all files of the corpus, seconds


def set_file_times(folder):
    for path in folder.rglob("*"):
        os.utime(path, (FILE_TIME, FILE_TIME))


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def recipe_of(folder, **sets):
    sft = {"kind": "sft", "start": "base", "train": "L", "optimization": STEP}
    opd = {
        "kind": "opd",
        "start": "base",
        "teacher": "teacher",
        "train": "P",
        "objective": {"top_k": 8, "max_new_tokens": 4},
        "optimization": STEP,
        "calibration_batches": 1,
    }
    document = {
        "name": "inputs",
        "corpus": {"folder": str(folder)},
        "sets": {
            "L": {"manifest": "train.jsonl"},
            "P": {"manifest": "train.jsonl", "labels": "withheld"},
            "dev": {"manifest": "dev.jsonl"},
        }
        | sets,
        "models": {name: {"pretrained": str(folder / name)} for name in ("base", "teacher")},
        "stages": {"sft": sft, "again": sft | {"start": "sft"}, "opd": opd},
        "variants": {"base": "base", "again": "again"},
        "evaluation": {"sets": ["dev"], "max_new_tokens": 4, "samples": 100},
    }
    return parse(Recipe, document, "test")


def session(folder, recipe=None):
    return Inputs(RunContext(recipe or recipe_of(folder), RunFolder(folder / "run", 0), torch.device("cpu")))


def check_and_record(inputs, stage="sft"):
    inputs.check_stage(stage)
    inputs.record()


def edit_row(path, index, **changes):
    rows = rows_of(path)
    rows[index] |= changes
    write_rows(path, rows)
