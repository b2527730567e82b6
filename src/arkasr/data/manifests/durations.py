"""Durations of utterances, from the manifest or measured."""

from arkasr.data.audio import duration_of
from arkasr.data.manifests.manifest import Utterance


def seconds_of(utterance: Utterance) -> float:
    """Seconds of an utterance: `duration` of its manifest line, else measured.

    Raises:
        InputError: the file cannot be read.
    """
    return utterance.duration or segment_duration(utterance)


def segment_duration(utterance: Utterance) -> float:
    """Seconds of an utterance, measured from its times or the file's header.

    Raises:
        InputError: the file cannot be read.
    """
    begin = utterance.begin_time or 0.0
    end = utterance.end_time if utterance.end_time is not None else duration_of(utterance.audio)
    return max(end - begin, 0.0)
