"""The parts that a recipe names are checked as soon as a pretrained model has been loaded."""

import pytest
import torch

from arkasr.errors import InputError
from arkasr.progress import Progress
from arkasr.recipe.load import parse
from arkasr.recipe.settings import Recipe
from arkasr.run.context import RunContext
from arkasr.run.folder import RunFolder
from arkasr.run.stages import run_training_stage

STEP = {"steps": 2, "batch_seconds": 10, "learning_rate": 1e-3}


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("sft", {"freeze": ["encodr"]}, "freeze: the model has no part 'encodr'; did you mean 'encoder'?"),
        ("sft", {"learning_rates": {"adaptor": 1}}, "learning_rates: the model has no part 'adaptor'; did you mean"),
        ("ctc", {"freeze": ["encoder", "adapter", "embeddings"]}, "freeze: nothing is left to train; remove a part"),
    ],
)
def test_a_wrong_part_of_a_later_stage_ends_the_run_before_the_first_step(student, tmp_path, kind, changes, message):
    student.save(tmp_path / "student")
    first = {"kind": "sft", "start": "student", "train": "L", "optimization": STEP}
    later = {"kind": kind, "start": "first", "train": "L", "optimization": STEP | changes}
    document = {
        "name": "parts",
        "corpus": {"folder": str(tmp_path)},
        "sets": {"L": {"manifest": "absent.jsonl"}},
        "models": {"student": {"pretrained": str(tmp_path / "student")}},
        "stages": {"first": first, "later": later},
    }
    recipe = parse(Recipe, document, "recipe")
    context = RunContext(recipe, RunFolder(tmp_path / "run", 0), torch.device("cpu"))
    with pytest.raises(InputError) as refused:
        run_training_stage(context, "first", 0, recipe.stages["first"], Progress(), lambda: None)
    assert str(refused.value).startswith(f"stages.later.optimization.{message}")
    assert "\n" not in str(refused.value)
