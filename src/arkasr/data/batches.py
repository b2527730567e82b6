"""Batches of utterances of similar duration, limited in padded size; seed and epoch determine them.

Uses only durations and token counts. Reading the audio is left to others.
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

# Durations are jittered by this fraction before sorting, so that batches differ from epoch to epoch.
DURATION_JITTER = 0.1
# Consecutive utterances that stay in one pool; they are usually neighbours in a tar.
BLOCK = 1_024
# Largest number of utterances in a pool. Without shuffling, one pool holds the whole set.
POOL = 128 * BLOCK
SCAN_CHUNK = 2**18  # durations read at once when all are scanned


@dataclass(frozen=True)
class DataPosition:
    """Position of the next batch. All three numbers count from 0.

    Attributes:
        epoch: number of the epoch. After the last batch of an epoch it is still that epoch.
        batch: number in the pool.
        pool: number in the epoch; a set of up to `POOL` utterances has one pool.
    """

    epoch: int = 0
    batch: int = 0
    pool: int = 0


class DurationBatchSampler:
    """Batches with a limited padded size that hold every utterance once per epoch.

    An epoch of a large set is a random order of blocks of utterances. Batches are formed within a pool of blocks.
    Memory therefore does not grow with the set, and resuming forms only one pool before its first batch.

    Args:
        durations: seconds of every utterance; read in slices.
        max_audio_seconds: limit of the longest utterance times the batch size.
        window_seconds: a shorter utterance counts as so many seconds, because the model pads it to them.
        lengthening: largest factor by which degradation may lengthen an utterance; batches of two or more leave room
            for it in `max_audio_seconds`.
        text_tokens: number of tokens of every transcript, if they are limited; read in slices, one pool at a time.
        max_text_tokens: limit of the longest transcript times the batch size, except for one transcript that is longer
            by itself.
        max_utterances: limit of the batch size.
        shuffle: True = durations are jittered before sorting, and the batches come in random order; False = longest
            first, one pool, nothing random.
        seed: determines everything random, together with the epoch.

    Raises:
        InputError: an utterance or the window is longer than `max_audio_seconds`; the message names the utterance's
            index.
    """

    def __init__(
        self,
        durations: Sequence[float],
        *,
        max_audio_seconds: float,
        window_seconds: float = 0.0,
        lengthening: float = 1.0,
        text_tokens: Sequence[int] | None = None,
        max_text_tokens: int | None = None,
        max_utterances: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        self.durations = durations
        self.text_tokens = text_tokens if text_tokens is not None and max_text_tokens is not None else None
        self.max_audio_seconds = max_audio_seconds
        self.window_seconds = window_seconds
        self.lengthening = lengthening
        self.max_text_tokens = max_text_tokens or 0
        self.max_utterances = max_utterances
        self.shuffle = shuffle
        self.seed = seed
        if window_seconds > max_audio_seconds:
            raise InputError(
                f"the model pads every utterance to {window_seconds:g} s, a batch holds {max_audio_seconds:g} s; "
                "raise batch_seconds"
            )
        index = next(indices_longer_than(max_audio_seconds, durations), None)
        if index is not None:
            raise InputError(
                f"utterance {index} is {durations[index]:.1f} s long, a batch holds {max_audio_seconds:g} s; "
                "raise batch_seconds or leave out the utterance"
            )

    def batches(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch, as lists of utterance indices."""
        return [batch for pool in self._pools(epoch) for batch in self._form_batches(pool)]

    def batches_from(self, position: DataPosition) -> Iterator[tuple[list[int], DataPosition]]:
        """Endless batches starting at `position`, epoch after epoch, each with the position after it."""
        while True:
            pools = self._pools(position.epoch)[position.pool :]
            # Counting the tokens of a pool takes seconds, so the next pool is formed in the background.
            formed = prefetch(self._form_batches, pools, 1) if len(pools) > 1 else map(self._form_batches, pools)
            for number, batches in enumerate(formed, start=position.pool):
                for index in range(position.batch, len(batches)):
                    yield batches[index], DataPosition(position.epoch, index + 1, number)
                position = DataPosition(position.epoch, 0, number + 1)
            position = DataPosition(position.epoch + 1)

    def position_after(self, batches: int) -> DataPosition:
        """The position after the first `batches` batches; forms all of them."""
        for epoch in itertools.count():
            for number, pool in enumerate(self._pools(epoch)):
                formed = len(self._form_batches(pool))
                if batches <= formed:
                    return DataPosition(epoch, batches, number)
                batches -= formed
        raise AssertionError

    def position_from_state(self, state: Mapping[str, Any]) -> DataPosition:
        """The position saved by `state_dict`; the beginning if `state` is empty.

        Raises:
            InputError: the durations of the set have changed, and its batches with them.
        """
        position = dict(state)
        if position.pop("fingerprint", self.fingerprint) != self.fingerprint:
            raise InputError(
                "the training set differs from that of the checkpoint: utterances were added or removed, or durations "
                "changed; restore it, or train on the changed set in another folder"
            )
        return DataPosition(**position)

    def state_dict(self, position: DataPosition) -> dict[str, Any]:
        """The position as JSON values, with the fingerprint of the set."""
        return {**asdict(position), "fingerprint": self.fingerprint}

    @cached_property
    def fingerprint(self) -> str:
        """A checksum of all durations in order."""
        digest = hashlib.sha256()
        for first in range(0, len(self.durations), SCAN_CHUNK):
            digest.update(np.asarray(self.durations[first : first + SCAN_CHUNK], dtype=np.float64).tobytes())
        return digest.hexdigest()

    def _pools(self, epoch: int) -> "list[_Pool]":
        """The pools of an epoch."""
        count = len(self.durations)
        if count <= POOL or not self.shuffle:
            return [_Pool(f"{self.seed}:{epoch}", [range(count)])]
        blocks = [range(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK)]
        random.Random(f"{self.seed}:{epoch}").shuffle(blocks)
        # Pools have nearly equal sizes: a small last pool would have batches of mixed durations.
        ends = np.linspace(0, len(blocks), -(-len(blocks) * BLOCK // POOL) + 1).astype(int).tolist()
        return [
            _Pool(f"{self.seed}:{epoch}:{number}", blocks[first:last])
            for number, (first, last) in enumerate(itertools.pairwise(ends))
        ]

    def _form_batches(self, pool: "_Pool") -> list[list[int]]:
        """The batches of a pool, as lists of utterance indices."""
        indices = [index for block in pool.blocks for index in block]
        durations = _gather(self.durations, pool.blocks)
        text_tokens = _gather(self.text_tokens, pool.blocks) if self.text_tokens is not None else None
        generator = random.Random(pool.seed)
        jitter = DURATION_JITTER if self.shuffle else 0.0
        order = sorted(
            range(len(indices)), key=lambda item: -durations[item] * (1 + jitter * (2 * generator.random() - 1))
        )
        batches: list[list[int]] = []
        longest, most_tokens = 0.0, 0
        for item in order:
            seconds, tokens = durations[item], text_tokens[item] if text_tokens is not None else 0
            longest, most_tokens = max(longest, seconds), max(most_tokens, tokens)
            if batches and self._within_budget(len(batches[-1]) + 1, longest, most_tokens):
                batches[-1].append(indices[item])
            else:
                batches.append([indices[item]])
                longest, most_tokens = seconds, tokens
        if self.shuffle:
            generator.shuffle(batches)
        return batches

    def _within_budget(self, utterances: int, longest: float, most_tokens: int) -> bool:
        return (
            (self.max_utterances is None or utterances <= self.max_utterances)
            and max(longest * self.lengthening, self.window_seconds) * utterances <= self.max_audio_seconds
            and (self.text_tokens is None or most_tokens * utterances <= self.max_text_tokens)
        )


@dataclass(frozen=True)
class _Pool:
    """Blocks of utterance indices whose batches are formed together, and the seed of those batches."""

    seed: str
    blocks: list[range]


def indices_longer_than(seconds: float, durations: Sequence[float]) -> Iterator[int]:
    """Indices of utterances longer than `seconds`; scans the durations in chunks."""
    for first in range(0, len(durations), SCAN_CHUNK):
        yield from (first + np.flatnonzero(np.asarray(durations[first : first + SCAN_CHUNK]) > seconds)).tolist()


def _gather(column: Sequence[Any], blocks: list[range]) -> list[Any]:
    return np.concatenate([column[block.start : block.stop] for block in blocks]).tolist()
