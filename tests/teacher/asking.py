"""How tests ask a served teacher."""

import itertools

import torch

from arkasr.teacher.self_test import check_servers, trial_question
from arkasr.train.settings import ObjectiveSettings

OBJECTIVE = ObjectiveSettings(top_k=8, max_new_tokens=6)


def step(stage, examples):
    """Loss, count and the gradients of one micro-batch."""
    stage.model.zero_grad()
    loss = stage(examples, seed=0)
    loss.total.backward()
    gradients = [parameter.grad for parameter in stage.model.parameters() if parameter.grad is not None]
    return loss, torch.cat([gradient.flatten() for gradient in gradients])


def questions_of(recognizer, examples, served):
    return [
        trial_question(
            recognizer,
            example.features[served.frontend].numpy(),
            example.utterance.language,
            example.utterance.text,
            named=9,
        )
        for example in itertools.islice(examples, 3)
    ]


def answer_of(served, question, top_k=8):
    return served.replicas.start(served.answer(question, top_k, served.replicas.post)).result()


def trusted(served, teacher, questions):
    """The served teacher once its servers have been tried."""
    check_servers(served, teacher, questions[:1], 8, 1e-3)
    return served
