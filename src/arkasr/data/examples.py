"""Utterances with their log-mel features, computed in worker processes or kept in memory.

In: the utterances of a manifest, and the feature functions of the models. Batching is left to others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from arkasr.data.audio import LONGEST_CLIP_SECONDS, decode_audio
from arkasr.data.manifests.manifest import Utterance
from arkasr.errors import InputError

FeatureFunction = Callable[[np.ndarray], Tensor]


@dataclass(frozen=True)
class Example:
    """An utterance with its features.

    Attributes:
        utterance: of the manifest.
        features: log-mel float32 `[mels, T]` by name of the frontend.
        joined_from: the utterances that were concatenated, in order; empty = not concatenated.
    """

    utterance: Utterance
    features: Mapping[str, Tensor]
    joined_from: tuple[Utterance, ...] = ()


class FeatureCache:
    """Keeps computed features in memory up to a limit, for sets that fit and are read in many epochs.

    Args:
        limit_bytes: features beyond this size are computed again each time.
    """

    def __init__(self, limit_bytes: int = 4 * 2**30) -> None:
        self._free_bytes = limit_bytes
        self._kept: dict[tuple[str, str, float | None, float | None], Tensor] = {}

    def get(self, frontend: str, utterance: Utterance, compute: Callable[[str], Tensor]) -> Tensor:
        """The features of `utterance` for `frontend`, from memory or computed."""
        key = (frontend, str(utterance.audio), utterance.begin_time, utterance.end_time)
        if key in self._kept:
            return self._kept[key]
        features = compute(frontend)
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
        feature_cache: keeps features; None = compute them each time, as worker processes do.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance] | IdentityLookup,
        frontends: Mapping[str, FeatureFunction],
        feature_cache: FeatureCache | None = None,
    ) -> None:
        self.utterances = utterances
        self.frontends = frontends
        self.feature_cache = feature_cache

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: Any) -> Example:
        """Decode one utterance and compute its features.

        Raises:
            InputError: the audio cannot be read or is too long; the message names the file.
        """
        utterance = self.utterances[index]
        waveform: np.ndarray | None = None

        def compute(frontend: str) -> Tensor:
            nonlocal waveform
            if waveform is None:
                times = (utterance.begin_time, utterance.end_time)
                waveform = decode_audio(utterance.audio, *times, max_seconds=LONGEST_CLIP_SECONDS)
            try:
                return self.frontends[frontend](waveform)
            except InputError as error:
                raise InputError(f"{utterance.audio}: {error}") from error

        cache = self.feature_cache
        features = {
            frontend: cache.get(frontend, utterance, compute) if cache is not None else compute(frontend)
            for frontend in self.frontends
        }
        return Example(utterance, features)
