import copy
import json
from pathlib import Path

import pytest
import torch

from arkasr.data.streams.streamed import StreamedBatches
from arkasr.errors import InputError
from arkasr.recipe.load import load_settings
from arkasr.recipe.settings import Recipe
from arkasr.run.batches import build_stream
from arkasr.run.context import RunContext
from arkasr.run.folder import RunFolder
from arkasr.run.stages import run_calibration
from arkasr.train.loop import train
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from tests.data.streams.test_streamed import sound, write_parquet
from tests.models import TEXTS

pytest.importorskip("datasets")

ROOT = Path(__file__).resolve().parents[2]
OPTIMIZATION = (
    "{steps: 6, learning_rate: 1.0e-2, batch_seconds: 1.5, accumulation: 2, batch_tokens: 60, checkpoint_every: 1}"
)


@pytest.fixture
def stream_of(tmp_path):
    """The stream of an SFT stage whose training set is a folder of two parquet files with six utterances each."""
    for file in range(2):
        rows = [
            {"audio": {"bytes": sound(6 * file + place, 0.4 + 0.05 * place)}, "text": TEXTS[place % len(TEXTS)]}
            for place in range(6)
        ]
        write_parquet(tmp_path / "corpus" / f"train-{file}.parquet", rows)

    def build(student, **dataset):
        described = {"path": str(tmp_path / "corpus"), "examples": 12, "language": "English"} | dataset
        overrides = [
            f"sets.D={json.dumps({'dataset': described})}",
            "stages.base.train=D",
            f"stages.base.optimization={OPTIMIZATION}",
        ]
        context, recipe = workshop_of(tmp_path, overrides)
        stage, settings = SupervisedStage(student, None), recipe.stages["base"]
        return stage, build_stream(context, stage, "base", 0, rank=0, world_size=1), settings.optimization

    return build


def workshop_of(tmp_path, overrides):
    recipe = load_settings(Recipe, ROOT / "recipes" / "smoke.yaml", overrides)
    return RunContext(recipe, RunFolder(tmp_path / "run", 0), torch.device("cpu")), recipe


class KilledError(Exception):
    pass


def kill_behind_step_four(step, values):
    if step == 4:
        raise KilledError


def test_a_killed_run_on_a_dataset_ends_with_the_bits_of_an_undisturbed_one(student, stream_of, tmp_path):
    victim, twin = copy.deepcopy(student), copy.deepcopy(student)
    stage, stream, settings = stream_of(student)
    train(stage, stream, settings, tmp_path / "undisturbed", seed=3)
    with pytest.raises(KilledError):
        train(*stream_of(victim)[:2], settings, tmp_path / "killed", seed=3, on_step=kill_behind_step_four)
    train(*stream_of(twin)[:2], settings, tmp_path / "killed", seed=3)
    for name, value in student.model.state_dict().items():
        assert torch.equal(value, twin.model.state_dict()[name]), name


def test_calibration_opens_one_lane_of_a_dataset(student, teacher, stream_of, tmp_path, monkeypatch):
    opened = []
    original = StreamedBatches._pools
    monkeypatch.setattr(
        StreamedBatches, "_pools", lambda self, lane, *its: (opened.append(lane), original(self, lane, *its))[1]
    )
    stage, stream, _ = stream_of(student)
    assert stream.sampler.lanes == 2
    dataset = {"path": str(tmp_path / "corpus"), "examples": 12, "language": "English"}
    overrides = [f"sets.D={json.dumps({'dataset': dataset})}", "stages.opd.train=D"]
    context, recipe = workshop_of(tmp_path, [*overrides, f"stages.opd.optimization={OPTIMIZATION}"])
    stage = DistillationStage(student, teacher, recipe.stages["opd"].objective)
    assert run_calibration(context, stage, "opd", 0).metrics["loss"] > 0
    assert opened == [0]


def test_what_a_stage_cannot_learn_from_is_named_when_it_is_met(student, stream_of):
    with pytest.raises(InputError, match=r"set D: 0/0 has no `text`, and this stage learns from labels"):
        next(iter(stream_of(student, text=None)[1]))
    with pytest.raises(InputError, match=r"corpus: row 0/0: language 'the red book is in london' is not known"):
        next(iter(stream_of(student, language=None, language_column="text")[1]))
    with pytest.raises(InputError, match=r"sets\.D\.dataset\.language: language 'klingon' is not known"):
        stream_of(student, language="klingon")
