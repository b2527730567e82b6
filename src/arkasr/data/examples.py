"""Utterances with their log-mel features, computed in worker processes or kept in memory.

In: the utterances of a manifest, and the feature functions of the models. A student may hear a degraded recording while
the other models hear the recording as it is. Batching is left to others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from arkasr.data.manifests.durations import decode_utterance
from arkasr.data.manifests.manifest import Utterance
from arkasr.errors import InputError

FeatureFunction = Callable[[np.ndarray], Tensor]
# Degrades the recording of an utterance in an epoch; returns the same array if the recording stays as it is.
DegradeFunction = Callable[[np.ndarray, Utterance, int], np.ndarray]


@dataclass(frozen=True)
class Example:
    """An utterance with its features.

    Attributes:
        utterance: of the manifest.
        features: log-mel float32 `[mels, T]` by name of the frontend. Features of a degraded recording have a name of
            their own.
        joined_from: the utterances that were concatenated, in order; empty = not concatenated.
    """

    utterance: Utterance
    features: Mapping[str, Tensor]
    joined_from: tuple[Utterance, ...] = ()

    def heard_by_student(self, frontend: str) -> Tensor:
        """The features of the degraded recording if there is one, else those of the recording."""
        degraded = self.features.get(degraded_name(frontend))
        return self.features[frontend] if degraded is None else degraded


class DegradedHearing(NamedTuple):
    """A student that hears degraded recordings.

    Attributes:
        frontend: name of the student's frontend.
        features: the student's feature function.
        degrade: degrades a recording.
    """

    frontend: str
    features: FeatureFunction
    degrade: DegradeFunction


def degraded_name(frontend: str) -> str:
    """The name of the features of a degraded recording."""
    return f"degraded {frontend}"


class FeatureCache:
    """Keeps computed features in memory up to a limit, for sets that fit and are read in many epochs.

    Args:
        limit_bytes: features beyond this size are computed again each time.
    """

    def __init__(self, limit_bytes: int = 4 * 2**30) -> None:
        self._free_bytes = limit_bytes
        self._kept: dict[tuple[str, str, float | None, float | None], Tensor] = {}

    def get(self, frontend: str, utterance: Utterance, compute: Callable[[], Tensor]) -> Tensor:
        """The features of `utterance` for `frontend`, from memory or computed."""
        key = (frontend, str(utterance.audio), utterance.begin_time, utterance.end_time)
        if key in self._kept:
            return self._kept[key]
        features = compute()
        if features.nbytes <= self._free_bytes:
            self._free_bytes -= features.nbytes
            self._kept[key] = features
        return features


class IdentityLookup:
    """Replaces the list of utterances if batches hold utterances instead of indices. An utterance is its own index.

    Args:
        count: expected number of utterances.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, utterance: Utterance) -> Utterance:
        return utterance


class ExampleDataset(Dataset[Example]):
    """Utterances by index, with the features of every frontend.

    Args:
        utterances: looked up by the items of a batch: indices, or utterances with `IdentityLookup`.
        frontends: feature functions by name; the name identifies features in `feature_cache`.
        feature_cache: keeps features; None = compute them each time, as worker processes do. Features of degraded
            recordings are never kept.
        hearing: of a student that hears degraded recordings; None = all models hear the recordings as they are.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance] | IdentityLookup,
        frontends: Mapping[str, FeatureFunction],
        feature_cache: FeatureCache | None = None,
        hearing: DegradedHearing | None = None,
    ) -> None:
        self.utterances = utterances
        self.frontends = frontends
        self.feature_cache = feature_cache
        self.hearing = hearing

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: Any) -> Example:
        """The example of the first epoch."""
        return self.example(index, 0)

    def example(self, index: Any, epoch: int) -> Example:
        """Decode one utterance and compute its features.

        Args:
            index: of the utterance.
            epoch: counts from 0. With the id of the utterance, it determines the degradation.

        Raises:
            InputError: the audio cannot be read or is too long; the message names the file.
            UnreadableSoundError: a background recording cannot be read.
        """
        recording = _Recording(self.utterances[index])
        features = {name: self._features(recording, name, function) for name, function in self.frontends.items()}
        if self.hearing is not None:
            # The student's features come first, as without degradation.
            features = {degraded_name(self.hearing.frontend): self._degraded(recording, epoch, features)} | features
        return Example(recording.utterance, features)

    def _features(self, recording: "_Recording", frontend: str, function: FeatureFunction) -> Tensor:
        """The features of the recording as it is."""

        def compute() -> Tensor:
            return recording.features(function, recording.waveform)

        if self.feature_cache is None:
            return compute()
        return self.feature_cache.get(frontend, recording.utterance, compute)

    def _degraded(self, recording: "_Recording", epoch: int, others: Mapping[str, Tensor]) -> Tensor:
        """The student's features. They may be among the `others` if the recording stays as it is."""
        assert self.hearing is not None
        frontend, function, degrade = self.hearing
        waveform = degrade(recording.waveform, recording.utterance, epoch)
        if waveform is not recording.waveform:
            return recording.features(function, waveform)
        return others[frontend] if frontend in others else self._features(recording, frontend, function)


class _Recording:
    """The recording of an utterance, decoded when it is first needed."""

    def __init__(self, utterance: Utterance) -> None:
        self.utterance = utterance

    @cached_property
    def waveform(self) -> np.ndarray:
        return decode_utterance(self.utterance)

    def features(self, function: FeatureFunction, waveform: np.ndarray) -> Tensor:
        """The features of this recording, or of a degraded form of it."""
        try:
            return function(waveform)
        except InputError as error:
            raise InputError(f"{self.utterance.audio}: {error}") from error
