"""Shared by the tests of OPD: settings, a student with empty rollouts, and rollouts with given texts."""

import math

import pytest
import torch

from arkasr.recognizers.ark_asr import ArkAsr
from arkasr.recognizers.decoding import Transcripts
from arkasr.recognizers.scoring import forced_logits
from arkasr.train.loop import train
from arkasr.train.settings import ObjectiveSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from tests.models import TEXTS
from tests.simulated_gpu import move_to_gpu, simulated_gpu
from tests.teacher.requests import step
from tests.train.runs import SETTINGS
from tests.train.stream import Stream

OBJECTIVE = ObjectiveSettings(top_k=8, max_new_tokens=6)


class SilentStudent(ArkAsr):
    """A student whose rollouts hold the stop token only."""

    @property
    def allowed_tokens(self):
        allowed = torch.zeros(self.vocab_size, dtype=torch.bool)
        allowed[self.stop_token_id] = True
        return allowed

    @allowed_tokens.setter
    def allowed_tokens(self, _):
        pass


def overfit(recognizer, examples, folder, steps=60):
    """Train the recogniser on a few examples until its rollouts have words and a stop token."""
    settings = SETTINGS.model_copy(update={"steps": steps, "schedule": "constant"})
    train(SupervisedStage(recognizer, None), Stream([examples]), settings, folder, seed=0)


def set_rollouts(stage, texts):
    """Make these texts the rollouts of every later micro-batch."""
    tokens = [stage.student.transcript_ids(text) for text in texts]
    transcripts = Transcripts(tokens, torch.ones(len(tokens), dtype=torch.bool), None, passes=1)
    stage.rollouts.write = lambda *arguments: transcripts


def text_ids(student, text):
    """The token ids of a text without the stop token."""
    return student.transcript_ids(text)[:-1].tolist()


def repeated(text, times):
    return " ".join([text] * times)


def tokens_before_the_loop(student):
    """How many tokens of a repeated "red book in" come before the second "red", the space included."""
    tokens = text_ids(student, repeated("red book in", 9))
    texts = [student.transcript_text(torch.tensor(tokens[:count])) for count in range(len(tokens))]
    return max(count for count, text in enumerate(texts) if len(text) <= len("red book in "))


def step_with(student, teacher, settings, examples, texts=TEXTS):
    stage = DistillationStage(student, teacher, settings)
    set_rollouts(stage, texts)
    return step(stage, examples)


def log_probs(recognizer, example, ids):
    """Over all allowed tokens, [n, V]."""
    prompts = recognizer.prompts([example.features[recognizer.frontend]], [example.utterance.language])
    logits = forced_logits(recognizer, prompts.to(recognizer.device), [ids])
    return logits.masked_fill(~recognizer.allowed_tokens, -math.inf).log_softmax(-1)


def assert_same_waits(student, teacher, examples, settings, monkeypatch):
    """Check that the host waits equally often for a GPU with each of two settings, and that the losses are the same."""
    waited = []
    stages = [DistillationStage(student, teacher, objective) for objective in settings]
    for stage in stages:
        set_rollouts(stage, TEXTS)
    expected = [stage(examples, seed=0).total.item() for stage in stages]
    move_to_gpu(student.model, teacher.model)
    with simulated_gpu(monkeypatch) as waits:
        for stage, total in zip(stages, expected, strict=True):
            stage(examples, seed=0)  # moves the vocabularies, once
            waits.clear()
            found = stage(examples, seed=0)
            waited.append(list(waits.calls))
            assert waits.mixed == []
            assert found.total.item() == pytest.approx(total, rel=1e-5)
    assert waited[0] == waited[1], waits.lines
