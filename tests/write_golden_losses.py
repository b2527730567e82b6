"""Writes golden_losses.json anew from a run of recipes/smoke.yaml: `python -m tests.write_golden_losses`."""

import json
import tempfile
from pathlib import Path

from arkasr.data.manifest import read_rows
from arkasr.recipe.load import load_settings
from arkasr.recipe.progress import Progress
from arkasr.recipe.run import run_recipe
from arkasr.recipe.settings import Recipe

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_settings(Recipe, Path("recipes/smoke.yaml"))
        run = run_recipe(recipe, Path(folder) / "smoke", resume=False, progress=Progress())
        stages = sorted((run.path / "stages").glob("*/metrics.jsonl"))
        losses = {place.parent.name: [round(line["loss"], 6) for line in read_rows(place)] for place in stages}
    target = Path(__file__).with_name("golden_losses.json")
    target.write_text(json.dumps(losses, indent=1) + "\n")
