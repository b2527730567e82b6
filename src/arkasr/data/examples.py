"""Utterances with their log-mel features, read in worker processes or kept in memory.

Comes after the manifest and before batching. Knows nothing of models: how a waveform becomes features is handed in.
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
    """An utterance as a model hears it.

    Attributes:
        utterance: the manifest line.
        features: log-mel float32 `[mels, T]` for each frontend, by its name.
        joined_from: the utterances that follow one another in it; empty = `utterance` alone.
    """

    utterance: Utterance
    features: Mapping[str, Tensor]
    joined_from: tuple[Utterance, ...] = ()


class FeatureMemory:
    """Keeps the first features computed in this process, for corpora that are heard many times.

    Args:
        limit_bytes: once this much is kept, other features are computed anew each time.
    """

    def __init__(self, limit_bytes: int = 4 * 2**30) -> None:
        self._room = limit_bytes
        self._kept: dict[tuple[str, str, float | None, float | None], Tensor] = {}

    def get(self, frontend: str, utterance: Utterance, compute: Callable[[str], Tensor]) -> Tensor:
        """The features of `utterance` for `frontend`, computed once as long as there is room."""
        key = (frontend, str(utterance.audio), utterance.begin_time, utterance.end_time)
        if key in self._kept:
            return self._kept[key]
        features = compute(frontend)
        if features.nbytes <= self._room:
            self._room -= features.nbytes
            self._kept[key] = features
        return features


class IdentityLookup:
    """Stands where utterances are looked up by number, for batches that consist of utterances.

    Args:
        count: how many there are, as far as is known.
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
        utterances: what is heard; looked up by what batches consist of, which is the number of an utterance or itself.
        frontends: how each frontend turns a waveform into features; the name identifies features in `memory`.
        memory: where to keep features; None = compute them anew each time, as worker processes do.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance] | IdentityLookup,
        frontends: Mapping[str, FeatureFunction],
        memory: FeatureMemory | None = None,
    ) -> None:
        self.utterances = utterances
        self.frontends = frontends
        self.memory = memory

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: Any) -> Example:
        """Decode and analyse one utterance.

        Raises:
            InputError: the audio cannot be read, or is longer than a frontend can hear; names the file.
        """
        utterance = self.utterances[index]
        waveform: np.ndarray | None = None

        def compute(frontend: str) -> Tensor:
            nonlocal waveform
            if waveform is None:
                times = (utterance.begin_time, utterance.end_time)
                waveform = decode_audio(utterance.audio, *times, longest=LONGEST_CLIP_SECONDS)
            try:
                return self.frontends[frontend](waveform)
            except InputError as error:
                raise InputError(f"{utterance.audio}: {error}") from error

        recall = self.memory.get if self.memory is not None else _compute_anew
        return Example(utterance, {frontend: recall(frontend, utterance, compute) for frontend in self.frontends})


def _compute_anew(frontend: str, utterance: Utterance, compute: Callable[[str], Tensor]) -> Tensor:
    return compute(frontend)
