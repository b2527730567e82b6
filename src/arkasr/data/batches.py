"""Batches of utterances of like duration under a budget, the same ones for the same seed and epoch.

Knows only durations: how the audio is read and what is done with it is for others.
"""

import hashlib
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from arkasr.errors import InputError
from arkasr.prefetch import prefetch

# Utterances meet others that are up to this share longer or shorter, so that batches differ from epoch to epoch.
DURATION_JITTER = 0.1
# Utterances that stand together in the manifest, and so in its tars, stay in one pool.
BLOCK = 1_024
# Batches are formed of so many utterances at a time, at most.
POOL = 128 * BLOCK
SCANNED = 2**18  # durations that are looked at at once


@dataclass(frozen=True)
class DataPosition:
    """Where the next batch stands.

    Attributes:
        epoch: counted from 0.
        batch: in the pool, counted from 0.
        pool: in the epoch, counted from 0; a set of up to `POOL` utterances has one.
    """

    epoch: int = 0
    batch: int = 0
    pool: int = 0


class DurationBatchSampler:
    """Every utterance once an epoch, in batches whose padded size stays under the budget.

    An epoch of a large set is a random order of blocks of utterances; batches are formed within a pool of blocks, so
    that what is held in memory does not grow with the set and any place is reached without going through those before.

    Args:
        durations: seconds of every utterance; only slices are taken.
        max_audio_seconds: longest utterance times their number, at most.
        text_tokens: tokens of every transcript, where they count; only slices are taken, of one pool at a time.
        max_text_tokens: longest transcript times the number of utterances, at most; a transcript that is longer by
            itself has a batch of its own.
        max_utterances: utterances in a batch, at most.
        shuffle: random batches in random order; else longest first, in one pool, and nothing random.
        seed: with the epoch, decides everything random.

    Raises:
        InputError: an utterance is longer than `max_audio_seconds`; names its index.
    """

    def __init__(
        self,
        durations: Sequence[float],
        *,
        max_audio_seconds: float,
        text_tokens: Sequence[int] | None = None,
        max_text_tokens: int | None = None,
        max_utterances: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        self.durations = durations
        self.text_tokens = text_tokens if text_tokens is not None and max_text_tokens is not None else None
        self.max_audio_seconds = max_audio_seconds
        self.max_text_tokens = max_text_tokens or 0
        self.max_utterances = max_utterances
        self.shuffle = shuffle
        self.seed = seed
        for place in places_longer_than(max_audio_seconds, durations):
            raise InputError(
                f"utterance {place} is {durations[place]:.1f} s long, a batch holds {max_audio_seconds:g} s; "
                "raise batch_seconds or leave out the utterance"
            )

    def batches(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch, as lists of utterance numbers."""
        return [batch for pool in self._pools(epoch) for batch in self._batches_of(pool)]

    def follow(self, position: DataPosition) -> Iterator[tuple[list[int], DataPosition]]:
        """Batches without end from `position` on, epoch after epoch, each with the position behind it."""
        while True:
            pools = self._pools(position.epoch)[position.pool :]
            # The transcripts of a pool take seconds to count, which a trainer would wait for.
            formed = prefetch(self._batches_of, pools, 1) if len(pools) > 1 else map(self._batches_of, pools)
            for number, batches in enumerate(formed, start=position.pool):
                for place in range(position.batch, len(batches)):
                    yield batches[place], DataPosition(position.epoch, place + 1, number)
                position = DataPosition(position.epoch, 0, number + 1)
            position = DataPosition(position.epoch + 1)

    def behind(self, batches: int) -> DataPosition:
        """The position behind the first so many batches, as `follow` counts them; forms all of them."""
        for epoch in itertools.count():
            for number, pool in enumerate(self._pools(epoch)):
                formed = len(self._batches_of(pool))
                if batches <= formed:
                    return DataPosition(epoch, batches, number)
                batches -= formed
        raise AssertionError

    def position_of(self, state: Mapping[str, Any]) -> DataPosition:
        """The position that `state_of` described; without a description, the beginning.

        Raises:
            InputError: it is of a set with other durations, whose batches were others.
        """
        position = dict(state)
        if position.pop("fingerprint", self.fingerprint) != self.fingerprint:
            raise InputError(
                "the training set is not the one of the checkpoint: utterances were added, taken away or have another "
                "duration; restore it, or train on the changed set in another folder"
            )
        return DataPosition(**position)

    def state_of(self, position: DataPosition) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(position), "fingerprint": self.fingerprint}

    @cached_property
    def fingerprint(self) -> str:
        """The same for the same durations in the same order."""
        digest = hashlib.sha256()
        for first in range(0, len(self.durations), SCANNED):
            digest.update(np.asarray(self.durations[first : first + SCANNED], dtype=np.float64).tobytes())
        return digest.hexdigest()

    def _pools(self, epoch: int) -> "list[_Pool]":
        """The blocks of each pool, and the seed of its batches."""
        count = len(self.durations)
        if count <= POOL or not self.shuffle:
            return [_Pool(f"{self.seed}:{epoch}", [range(count)])]
        blocks = [range(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK)]
        random.Random(f"{self.seed}:{epoch}").shuffle(blocks)
        # Pools of like size, so that the last one is not too small to find batches of like duration in.
        ends = np.linspace(0, len(blocks), -(-len(blocks) * BLOCK // POOL) + 1).astype(int).tolist()
        return [
            _Pool(f"{self.seed}:{epoch}:{number}", blocks[first:last])
            for number, (first, last) in enumerate(itertools.pairwise(ends))
        ]

    def _batches_of(self, pool: "_Pool") -> list[list[int]]:
        """The batches of a pool, as lists of utterance numbers."""
        places = [place for block in pool.blocks for place in block]
        durations = _values(self.durations, pool.blocks)
        text_tokens = _values(self.text_tokens, pool.blocks) if self.text_tokens is not None else None
        generator = random.Random(pool.seed)
        jitter = DURATION_JITTER if self.shuffle else 0.0
        order = sorted(
            range(len(places)), key=lambda item: -durations[item] * (1 + jitter * (2 * generator.random() - 1))
        )
        batches: list[list[int]] = []
        longest, most_tokens = 0.0, 0
        for item in order:
            seconds, tokens = durations[item], text_tokens[item] if text_tokens is not None else 0
            longest, most_tokens = max(longest, seconds), max(most_tokens, tokens)
            if batches and self._fits(len(batches[-1]) + 1, longest, most_tokens):
                batches[-1].append(places[item])
            else:
                batches.append([places[item]])
                longest, most_tokens = seconds, tokens
        if self.shuffle:
            generator.shuffle(batches)
        return batches

    def _fits(self, utterances: int, longest: float, most_tokens: int) -> bool:
        return (
            (self.max_utterances is None or utterances <= self.max_utterances)
            and longest * utterances <= self.max_audio_seconds
            and (self.text_tokens is None or most_tokens * utterances <= self.max_text_tokens)
        )


@dataclass(frozen=True)
class _Pool:
    seed: str
    blocks: list[range]


def places_longer_than(seconds: float, durations: Sequence[float]) -> Iterator[int]:
    """Places of utterances of more than `seconds`, found without holding all durations."""
    for first in range(0, len(durations), SCANNED):
        yield from (first + np.flatnonzero(np.asarray(durations[first : first + SCANNED]) > seconds)).tolist()


def _values(column: Sequence[Any], blocks: list[range]) -> list[Any]:
    return np.concatenate([column[block.start : block.stop] for block in blocks]).tolist()
