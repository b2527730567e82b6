"""Requests to a teacher, shared by tests."""

import itertools

import torch

from arkasr.teacher.self_test import check_servers, self_test_request
from arkasr.teacher.teacher import ScoringRequest
from arkasr.train.settings import ObjectiveSettings
from tests.models import TEXTS

OBJECTIVE = ObjectiveSettings(top_k=8, max_new_tokens=6)


def step(stage, examples):
    """Loss, count and the gradients of one micro-batch."""
    stage.model.zero_grad()
    loss = stage(examples, seed=0)
    loss.total.backward()
    gradients = [parameter.grad for parameter in stage.model.parameters() if parameter.grad is not None]
    return loss, torch.cat([gradient.flatten() for gradient in gradients])


def requests_of(recognizer, examples, served):
    return [
        self_test_request(
            recognizer,
            example.features[served.frontend].numpy(),
            example.utterance.language,
            example.utterance.text,
            requested=9,
        )
        for example in itertools.islice(examples, 3)
    ]


def forced_on(recognizer, examples, texts=TEXTS):
    """Requests to score every token of the texts on the examples, to a teacher in this process."""
    return [
        ScoringRequest(
            example.features[recognizer.frontend],
            example.utterance.language,
            (transcript := recognizer.transcript_ids(text)),
            torch.arange(len(transcript)),
            torch.empty(len(transcript), 0, dtype=torch.long),
        )
        for example, text in zip(examples, texts, strict=False)
    ]


def scores_of(served, request, top_k=8):
    return served.replicas.submit(served.score(request, top_k, served.replicas.post)).result()


def self_tested(served, teacher, requests):
    """The served teacher after the self-test of its servers."""
    check_servers(served, teacher, requests[:1], 8, 1e-3)
    return served
