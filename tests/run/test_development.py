"""The metrics on a development set. The references are transcripts of a small trained model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from arkasr.data.manifests.manifest import Utterance
from arkasr.recipe.load import load_settings
from arkasr.recipe.settings import Recipe
from arkasr.recognizers.inference import RecognitionSettings, recognize
from arkasr.run.context import RunContext
from arkasr.run.development import development_error_rate
from arkasr.run.folder import RunFolder
from arkasr.train.loop import train
from arkasr.train.stages.sft import SupervisedStage
from tests.train.runs import SETTINGS
from tests.train.stream import Stream

SMOKE = Path(__file__).resolve().parents[2] / "recipes" / "smoke.yaml"


@pytest.fixture
def transcribed(student, noise_examples, tmp_path):
    """Utterances whose texts are the student's own transcripts. The student is trained to write words."""
    settings = SETTINGS.model_copy(update={"steps": 60, "schedule": "constant"})
    train(SupervisedStage(student, None), Stream([noise_examples(student)]), settings, tmp_path / "student", seed=0)
    generator = np.random.default_rng(0)
    utterances = []
    for index in range(3):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, 0.1 * generator.normal(size=16_000), 16_000)
        utterances.append(Utterance(path, None, None, None, "English", str(index), None, 1.0, {}))
    recognitions = recognize(student, utterances, RecognitionSettings(30.0, 12))
    assert all(len(recognized.text.split()) > 1 for recognized in recognitions)
    return [replace(item, text=recognized.text) for item, recognized in zip(utterances, recognitions, strict=True)]


@pytest.fixture
def metrics(student, tmp_path):
    def measure(utterances):
        context = RunContext(load_settings(Recipe, SMOKE), RunFolder(tmp_path / "run", 0), torch.device("cpu"))
        return development_error_rate(context, student, utterances)

    return measure


def test_utterances_without_text_are_not_counted(transcribed, metrics):
    unlabelled = [replace(item, text=None) for item in transcribed[1:]]
    assert metrics([transcribed[0], *unlabelled])["dev/perfect_share"] == 1
    assert metrics([transcribed[0], *unlabelled])["dev/error_rate"] == 0


def test_words_that_the_reference_lacks_are_insertions(transcribed, metrics):
    words = transcribed[0].text.split()
    shorter = replace(transcribed[0], text=" ".join(words[:-1]))
    values = metrics([shorter])
    assert values["dev/insertion_rate"] == pytest.approx(1 / (len(words) - 1))
    assert values["dev/perfect_share"] == 0
    assert metrics([replace(transcribed[0], text=f"{transcribed[0].text} more")])["dev/insertion_rate"] == 0
