"""The figures on a development set, with the transcripts of a real model as references."""

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
def heard(student, hear, tmp_path):
    """A student that writes words, and what it hears, each with the words that it writes."""
    settings = SETTINGS.model_copy(update={"steps": 60, "schedule": "constant"})
    train(SupervisedStage(student, None), Stream([hear(student)]), settings, tmp_path / "student", seed=0)
    generator = np.random.default_rng(0)
    utterances = []
    for place in range(3):
        path = tmp_path / f"{place}.wav"
        soundfile.write(path, 0.1 * generator.normal(size=16_000), 16_000)
        utterances.append(Utterance(path, None, None, None, "English", str(place), None, 1.0, {}))
    written = recognize(student, utterances, RecognitionSettings(30.0, 12))
    assert all(len(recognized.text.split()) > 1 for recognized in written)
    return [replace(item, text=recognized.text) for item, recognized in zip(utterances, written, strict=True)]


@pytest.fixture
def figures(student, tmp_path):
    def measure(utterances):
        context = RunContext(load_settings(Recipe, SMOKE), RunFolder(tmp_path / "run", 0), torch.device("cpu"))
        return development_error_rate(context, student, utterances)

    return measure


def test_what_has_no_text_is_in_no_share(heard, figures):
    unlabelled = [replace(item, text=None) for item in heard[1:]]
    assert figures([heard[0], *unlabelled])["dev/perfect_share"] == 1
    assert figures([heard[0], *unlabelled])["dev/error_rate"] == 0


def test_words_that_nobody_said_are_insertions(heard, figures):
    words = heard[0].text.split()
    shorter = replace(heard[0], text=" ".join(words[:-1]))
    found = figures([shorter])
    assert found["dev/insertion_rate"] == pytest.approx(1 / (len(words) - 1))
    assert found["dev/perfect_share"] == 0
    assert figures([replace(heard[0], text=f"{heard[0].text} more")])["dev/insertion_rate"] == 0
