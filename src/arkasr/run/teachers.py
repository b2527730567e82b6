"""The teacher of an OPD stage, as the recipe wants it: in this process, or at servers, which are checked first."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress

import numpy as np
from numpy.typing import NDArray

from arkasr import processes
from arkasr.data.audio import LONGEST_CLIP_SECONDS, decode_audio
from arkasr.data.manifests.durations import seconds_of
from arkasr.data.manifests.manifest import Utterance
from arkasr.errors import InputError
from arkasr.recipe.settings import ModelSettings, OpdStageSettings, ServedSettings
from arkasr.recognizers.load import load_recognizer, load_without_weights
from arkasr.run.context import RunContext
from arkasr.teacher.in_process import InProcessTeacher
from arkasr.teacher.replicas import Replicas
from arkasr.teacher.self_test import check_servers, trial_question
from arkasr.teacher.served import ServedTeacher
from arkasr.teacher.teacher import Teacher

# The shortest and the longest of so many are asked about before the first step.
LOOKED_AT = 100


def teacher_of(context: RunContext, settings: OpdStageSettings, seed: int) -> Teacher:
    """The teacher of a stage.

    Raises:
        InputError: it is not there, or its servers do not give its scores.
    """
    model = context.model(settings.teacher) if settings.teacher in context.recipe.models else None
    if model is None or model.served is None:
        return InProcessTeacher(context.recognizer(settings.teacher, seed), offload=settings.offload_teacher)
    return served_teacher(model, model.served, _tried_on(context, settings, seed), settings.objective.top_k)


def _tried_on(context: RunContext, settings: OpdStageSettings, seed: int) -> Sequence[Utterance]:
    """What servers are tried on: the training set, or the development set where the former is streamed."""
    streamed = context.recipe.sets.get(settings.train)
    if streamed is None or streamed.dataset is None:
        return context.training_utterances(settings.train, seed)
    if settings.dev is None:
        raise InputError(
            f"teacher {settings.teacher}: its servers are tried before the first step, and {settings.train!r} is "
            "streamed; give the stage a `dev` set of files"
        )
    return context.set(settings.dev)


def served_teacher(
    model: ModelSettings, served: ServedSettings, utterances: Sequence[Utterance], top_k: int
) -> ServedTeacher:
    """A teacher at servers that have given its scores for a short and a long utterance.

    Raises:
        InputError: they do not.
    """
    assert model.pretrained is not None
    recognizer = load_without_weights(model.pretrained, revision=model.revision)
    by_length = sorted(_measured(utterances[:LOOKED_AT]), key=seconds_of)
    questions = []
    for utterance, waveform in (_first_heard(by_length), _first_heard(by_length[::-1])):
        questions.append(trial_question(recognizer, waveform, utterance.language, utterance.text, named=top_k + 1))
    # One process compares the servers with the weights, and the others with each other.
    weights = served.weights and processes.is_first_rank()
    own = load_recognizer(model.pretrained, revision=model.revision) if weights else None
    replicas = Replicas(
        served.urls, in_flight=served.in_flight, timeout=served.timeout_seconds, patience=served.patience_seconds
    )
    best_tokens = served.best_tokens if served.scores == "best" else None
    with ExitStack() as on_failure:
        teacher = ServedTeacher(recognizer, replicas, model=served.model, best_tokens=best_tokens)
        on_failure.callback(teacher.close)
        check_servers(teacher, own, questions, top_k, served.tolerance)
        on_failure.pop_all()
    return teacher


def _measured(utterances: Iterable[Utterance]) -> Iterator[Utterance]:
    """Those whose length can be told; the others are put into quarantine where the stage hears them."""
    for utterance in utterances:
        with suppress(InputError):
            seconds_of(utterance)
            yield utterance


def _first_heard(utterances: Iterable[Utterance]) -> tuple[Utterance, NDArray[np.float32]]:
    for utterance in utterances:
        with suppress(InputError):
            times = (utterance.begin_time, utterance.end_time)
            return utterance, decode_audio(utterance.audio, *times, longest=LONGEST_CLIP_SECONDS)
    raise InputError(f"none of the first {LOOKED_AT} utterances can be heard, so the teacher's servers cannot be tried")
