"""The teacher of an OPD stage: in this process, or on servers, which are checked before training."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress

import numpy as np
from numpy.typing import NDArray

from arkasr import processes
from arkasr.data.manifests.durations import decode_utterance, seconds_of
from arkasr.data.manifests.manifest import Utterance
from arkasr.errors import InputError
from arkasr.recipe.settings import ModelSettings, OpdStageSettings, ServedSettings
from arkasr.recognizers.load import load_recognizer, load_without_weights
from arkasr.recognizers.recognizer import Recognizer
from arkasr.run.context import RunContext
from arkasr.teacher.in_process import InProcessTeacher
from arkasr.teacher.replicas import Replicas
from arkasr.teacher.self_test import check_servers, self_test_request
from arkasr.teacher.served import ServedTeacher
from arkasr.teacher.teacher import Teacher
from arkasr.teacher.teacher_cache import TeacherCache

# The servers score the shortest and the longest of these before the first step.
SELF_TEST_UTTERANCES = 100


def teacher_of(context: RunContext, settings: OpdStageSettings, seed: int) -> Teacher:
    """Load the teacher of a stage, or connect to its servers.

    Raises:
        InputError: the model is missing, or the servers do not return its scores.
    """
    model = context.model(settings.teacher) if settings.teacher in context.recipe.models else None
    if model is None or model.served is None:
        recognizer = context.recognizer(settings.teacher, seed)
        cache = _cache_of(recognizer, context, settings)
        return InProcessTeacher(recognizer, offload=settings.offload_teacher, cache=cache)
    return served_teacher(model, model.served, _self_test_set(context, settings, seed), settings.objective.top_k)


def _cache_of(recognizer: Recognizer, context: RunContext, settings: OpdStageSettings) -> TeacherCache | None:
    if settings.teacher_cache is None:
        return None
    return TeacherCache(
        recognizer,
        context.folder.teacher_cache,
        int(settings.teacher_cache_gib * 2**30),
        keeps_states=settings.teacher_cache == "states",
        process=processes.rank(),
        processes=processes.world_size(),
    )


def _self_test_set(context: RunContext, settings: OpdStageSettings, seed: int) -> Sequence[Utterance]:
    """The set that servers are tested on: the training set, or the development set if training is streamed."""
    train_set = context.recipe.sets.get(settings.train)
    if train_set is None or train_set.dataset is None:
        return context.training_utterances(settings.train, seed)
    if settings.dev is None:
        raise InputError(
            f"teacher {settings.teacher}: its servers are tested before the first step, and {settings.train!r} is "
            "streamed; give the stage a `dev` set from a manifest"
        )
    return context.set(settings.dev)


def served_teacher(
    model: ModelSettings, served: ServedSettings, utterances: Sequence[Utterance], top_k: int
) -> ServedTeacher:
    """A teacher on servers that have passed a self-test with a short and a long utterance.

    Raises:
        InputError: the servers fail the self-test, or no utterance can be read.
    """
    assert model.pretrained is not None
    recognizer = load_without_weights(model.pretrained, revision=model.revision)
    by_length = sorted(_measured(utterances[:SELF_TEST_UTTERANCES]), key=seconds_of)
    requests = [
        self_test_request(recognizer, waveform, utterance.language, utterance.text, requested=top_k + 1)
        for utterance, waveform in (_first_readable(by_length), _first_readable(by_length[::-1]))
    ]
    # Rank 0 compares the servers with the weights; the other ranks compare the servers with each other.
    compares_weights = served.weights and processes.is_first_rank()
    local = load_recognizer(model.pretrained, revision=model.revision) if compares_weights else None
    replicas = Replicas(
        served.urls, in_flight=served.in_flight, timeout=served.timeout_seconds, patience=served.patience_seconds
    )
    best_tokens = served.best_tokens if served.scores == "best" else None
    with ExitStack() as on_failure:
        teacher = ServedTeacher(recognizer, replicas, model=served.model, best_tokens=best_tokens)
        on_failure.callback(teacher.close)
        check_servers(teacher, local, requests, top_k, served.tolerance)
        on_failure.pop_all()
    return teacher


def _measured(utterances: Iterable[Utterance]) -> Iterator[Utterance]:
    """Utterances with a known duration; the training stage quarantines the others."""
    for utterance in utterances:
        with suppress(InputError):
            seconds_of(utterance)
            yield utterance


def _first_readable(utterances: Iterable[Utterance]) -> tuple[Utterance, NDArray[np.float32]]:
    for utterance in utterances:
        with suppress(InputError):
            return utterance, decode_utterance(utterance)
    raise InputError(
        f"none of the first {SELF_TEST_UTTERANCES} utterances can be read, so the teacher's servers cannot be tested"
    )
