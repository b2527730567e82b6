"""Checks of a training set that depend on the model."""

from pathlib import Path

import pytest

from arkasr.data.manifests.manifest import Utterance
from arkasr.data.manifests.utterances import ListedUtterances
from arkasr.errors import InputError
from arkasr.recipe.settings.stages import SftStageSettings
from arkasr.run.checks import check_training_set, utterance_check
from arkasr.train.settings import ObjectiveSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage

SETTINGS = SftStageSettings.model_validate(
    {"kind": "sft", "start": "m", "train": "s", "optimization": {"steps": 1, "batch_seconds": 9, "learning_rate": 1e-3}}
)


def utterance(name, text):
    return Utterance(Path("a.wav"), text, None, None, "English", name, None, 1.0, {})


def test_a_label_longer_than_whisper_can_write_is_refused_before_training(whisper):
    stage = SupervisedStage(whisper, None)
    short, long = utterance("short", "the red apples"), utterance("long", "the red apples " * 30)
    message = r"set s: long: its `text` in tokens is \d+; the model writes at most 61 tokens; cut the recording"
    with pytest.raises(InputError, match=message):
        check_training_set("set s", ListedUtterances([short, long]), [1.0, 1.0], stage, SETTINGS)
    check_training_set("set s", ListedUtterances([short]), [1.0], stage, SETTINGS)
    check = utterance_check("set s", stage, SETTINGS)
    check(short, 1.0)
    with pytest.raises(InputError, match=message):
        check(long, 1.0)


def test_opd_refuses_long_labels_only_if_it_learns_from_them(whisper):
    utterances = ListedUtterances([utterance("short", None), utterance("long", None)])
    drafts = {"short": "the red apples", "long": "the red apples " * 30}
    for weight in (0.0, 0.5):
        objective = ObjectiveSettings(max_new_tokens=4, label_weight=weight)
        stage = DistillationStage(whisper, whisper, objective, drafts)
        check = utterance_check("set s", stage, SETTINGS)
        check(utterances[0], 1.0)
        if weight == 0:
            check_training_set("set s", utterances, [1.0, 1.0], stage, SETTINGS)
            check(utterances[1], 1.0)
            continue
        message = r"set s: long: its label from `drafts` in tokens is \d+; the model writes at most 61 tokens; cut the"
        with pytest.raises(InputError, match=message):
            check_training_set("set s", utterances, [1.0, 1.0], stage, SETTINGS)
        with pytest.raises(InputError, match=message):
            check(utterances[1], 1.0)


@pytest.mark.parametrize("has_the_window", ["student", "teacher"])
def test_an_utterance_longer_than_the_window_of_a_model_is_refused_before_training(
    student, short_whisper, has_the_window
):
    stage = SupervisedStage(short_whisper, None)
    if has_the_window == "teacher":
        stage = DistillationStage(student, short_whisper, ObjectiveSettings(max_new_tokens=4))
    utterances = ListedUtterances([utterance("short", "red"), utterance("long", "red")])
    check_training_set("set s", utterances, [2.0, 2.0], stage, SETTINGS)
    message = (
        r"^set s: 1 of 2 utterances are longer than 2\.01 s, the most that the model or a batch holds; the first is "
    )
    with pytest.raises(InputError, match=message + "long; leave them out with the set's `max_seconds`"):
        check_training_set("set s", utterances, [2.0, 2.1], stage, SETTINGS)
    check = utterance_check("set s", stage, SETTINGS)
    check(utterances[0], 2.0)
    with pytest.raises(InputError, match=r"^set s: long is 2\.1 s long, but the model or a batch holds 2\.01 s; leave"):
        check(utterances[1], 2.1)


def test_a_sharded_whisper_needs_languages(whisper):
    stage = SupervisedStage(whisper, None)
    nameless = ListedUtterances([Utterance(Path("a.wav"), "x", None, None, None, "a", None, 1.0, {})])
    check_training_set("set s", nameless, [1.0], stage, SETTINGS)
    optimization = SETTINGS.optimization.model_copy(update={"sharding": "full"})
    sharded = SETTINGS.model_copy(update={"optimization": optimization})
    with pytest.raises(InputError, match="set s: with `sharding: full`, Whisper cannot detect languages"):
        check_training_set("set s", nameless, [1.0], stage, sharded)


def test_a_language_that_whisper_does_not_know_is_refused_before_training(whisper):
    whisper.model.generation_config.is_multilingual = False
    stage = SupervisedStage(whisper, None)
    german = ListedUtterances([Utterance(Path("a.wav"), "x", None, None, "German", "a", None, 1.0, {})])
    with pytest.raises(InputError, match="set s: language 'German': this Whisper model writes English"):
        check_training_set("set s", german, [1.0], stage, SETTINGS)
