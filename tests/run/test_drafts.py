from pathlib import Path

import pytest
import torch

from arkasr.data.manifests import opening
from arkasr.data.manifests.indexed import TextsOfLines
from arkasr.data.manifests.manifest import write_manifest
from arkasr.errors import InputError
from arkasr.recipe.load import load_settings
from arkasr.recipe.settings import Recipe
from arkasr.run.context import RunContext
from arkasr.run.folder import RunFolder
from arkasr.run.stages import drafts_of

ROOT = Path(__file__).resolve().parents[2]


def context_and_stage(folder, drafts):
    texts = {"train.jsonl": [("a", "one"), ("b", "two")], "other.jsonl": [("c", "three")]}
    for manifest, ids_and_texts in texts.items():
        for name, _ in ids_and_texts:
            (folder / f"{name}.wav").touch()
        rows = [
            {"audio": f"{name}.wav", "id": name, "text": text, "duration": 1.0, "language": "English"}
            for name, text in ids_and_texts
        ]
        write_manifest(folder / manifest, rows)
    overrides = [
        f"corpus={{folder: {folder}}}",
        "sets.other={manifest: other.jsonl}",
        "sets.P={manifest: train.jsonl, labels: withheld}",
        f"stages.opd.drafts={drafts}",
    ]
    recipe = load_settings(Recipe, ROOT / "recipes" / "smoke.yaml", overrides)
    return RunContext(recipe, RunFolder(folder / "run", 0), torch.device("cpu")), recipe.stages["opd"]


def test_drafts_are_the_texts_of_the_named_set(tmp_path):
    assert drafts_of(*context_and_stage(tmp_path, "everything"), seed=0) == {"a": "one", "b": "two"}
    assert drafts_of(*context_and_stage(tmp_path, "null"), seed=0) == {}


def test_drafts_of_a_large_manifest_are_equal_and_are_read_on_demand(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "LARGE_BYTES", 1)
    drafts = drafts_of(*context_and_stage(tmp_path, "everything"), seed=0)
    assert isinstance(drafts, TextsOfLines)
    assert drafts == {"a": "one", "b": "two"}
    assert drafts.get("absent", "own") == "own"


@pytest.mark.parametrize(
    ("drafts", "message"),
    [
        ("other", "drafts: 'other' has no text for any utterance of 'P'"),
        ("P", "drafts: 'P' has no text for any utterance of 'P'"),
        ("labels", "stage 'labels' has not been run yet; run the whole recipe first"),
    ],
)
def test_drafts_for_other_utterances_and_missing_drafts_are_refused(tmp_path, drafts, message):
    with pytest.raises(InputError, match=message):
        drafts_of(*context_and_stage(tmp_path, drafts), seed=0)


def test_a_run_older_than_a_recipe_key_is_continued(tmp_path):
    recipe = load_settings(Recipe, ROOT / "recipes" / "smoke.yaml", ["stages.opd.drafts=null"])
    RunFolder.create(tmp_path, recipe, resume=False)
    stored = tmp_path / "recipe.yaml"
    older = [line for line in stored.read_text().splitlines() if "rollout_temperature" not in line]
    stored.write_text("\n".join(older))
    RunFolder.create(tmp_path, recipe, resume=True)
    with pytest.raises(InputError, match="seeds differs from the recipe given"):
        RunFolder.create(tmp_path, recipe.model_copy(update={"seeds": [1]}), resume=True)
