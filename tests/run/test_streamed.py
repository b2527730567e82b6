import copy
import itertools
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
from tests.train.runs import KilledError, assert_weights, kill_at, killed, weights_of

pytest.importorskip("datasets")

ROOT = Path(__file__).resolve().parents[2]
OPTIMIZATION = (
    "{steps: 6, learning_rate: 1.0e-2, batch_seconds: 1.5, accumulation: 2, batch_tokens: 60, checkpoint_every: 1}"
)


@pytest.fixture
def stream_of(tmp_path):
    """Builds the stream of an SFT stage on a dataset of two parquet files with six utterances each."""
    for file in range(2):
        rows = [
            {"audio": {"bytes": sound(6 * file + index, 0.4 + 0.05 * index)}, "text": TEXTS[index % len(TEXTS)]}
            for index in range(6)
        ]
        write_parquet(tmp_path / "corpus" / f"train-{file}.parquet", rows)

    def build(student, degradation="null", **dataset):
        settings = {"path": str(tmp_path / "corpus"), "examples": 12, "language": "English"} | dataset
        overrides = [
            f"sets.D={json.dumps({'dataset': settings})}",
            "stages.base.train=D",
            f"stages.base.optimization={OPTIMIZATION}",
            f"stages.base.degradation={degradation}",
        ]
        context, recipe = context_and_recipe(tmp_path, overrides)
        stage = SupervisedStage(student, None)
        stream = build_stream(context, stage, "base", 0, rank=0, world_size=1)
        return stage, stream, recipe.stages["base"].optimization

    return build


def context_and_recipe(tmp_path, overrides):
    recipe = load_settings(Recipe, ROOT / "recipes" / "smoke.yaml", overrides)
    return RunContext(recipe, RunFolder(tmp_path / "run", 0), torch.device("cpu")), recipe


def test_a_killed_and_resumed_run_on_a_dataset_ends_with_the_bits_of_an_undisturbed_one(student, stream_of, tmp_path):
    killed, resumed = copy.deepcopy(student), copy.deepcopy(student)
    stage, stream, settings = stream_of(student)
    train(stage, stream, settings, tmp_path / "undisturbed", seed=3)
    with pytest.raises(KilledError):
        train(*stream_of(killed)[:2], settings, tmp_path / "killed", seed=3, on_step=kill_at(4))
    train(*stream_of(resumed)[:2], settings, tmp_path / "killed", seed=3)
    assert_weights(resumed, weights_of(student))


def test_every_epoch_of_a_dataset_is_degraded_anew_and_killed_runs_resume_in_it(student, stream_of, tmp_path):
    noise = "{noise: {probability: 1, kinds: [white, pink]}, speed: {probability: 1, factor: [0.8, 1.2]}}"
    resumed, start = copy.deepcopy(student), copy.deepcopy(student)
    stage, stream, settings = stream_of(student, noise)
    epochs = {}
    for example in itertools.chain(*itertools.islice(stream, 24)):
        epochs.setdefault(example.utterance.id, []).append(example.heard_by_student(student.frontend))
    assert len(epochs) == 12
    assert all(len(heard) > 1 and heard[0].shape != heard[1].shape for heard in epochs.values())

    stage, stream, settings = stream_of(student, noise)
    train(stage, stream, settings, tmp_path / "undisturbed", seed=3)
    with killed():
        train(*stream_of(start, noise)[:2], settings, tmp_path / "killed", seed=3, on_step=kill_at(4))
    train(*stream_of(resumed, noise)[:2], settings, tmp_path / "killed", seed=3)
    assert_weights(resumed, weights_of(student))


def test_calibration_reads_one_lane_of_a_dataset(student, teacher, stream_of, tmp_path, monkeypatch):
    opened = []
    pools = StreamedBatches._pools

    def record_lane(self, lane, *arguments):
        opened.append(lane)
        return pools(self, lane, *arguments)

    monkeypatch.setattr(StreamedBatches, "_pools", record_lane)
    stage, stream, _ = stream_of(student)
    assert stream.sampler.lanes == 2
    dataset = {"path": str(tmp_path / "corpus"), "examples": 12, "language": "English"}
    overrides = [f"sets.D={json.dumps({'dataset': dataset})}", "stages.opd.train=D"]
    context, recipe = context_and_recipe(tmp_path, [*overrides, f"stages.opd.optimization={OPTIMIZATION}"])
    stage = DistillationStage(student, teacher, recipe.stages["opd"].objective)
    assert run_calibration(context, stage, "opd", 0).metrics["loss"] > 0
    assert opened == [0]


def test_rows_that_a_stage_cannot_train_on_are_refused_when_they_are_read(student, stream_of):
    with pytest.raises(InputError, match=r"set D: 0/0 has no `text`, and this stage learns from labels"):
        next(iter(stream_of(student, text=None)[1]))
    with pytest.raises(InputError, match=r"corpus: row 0/0: language 'the red book is in london' is not known"):
        next(iter(stream_of(student, language=None, language_column="text")[1]))
    with pytest.raises(InputError, match=r"sets\.D\.dataset\.language: language 'klingon' is not known"):
        stream_of(student, language="klingon")
