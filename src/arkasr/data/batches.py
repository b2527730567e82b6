"""Batches of utterances of like duration under a budget, the same ones for the same seed and epoch.

Knows only durations: how the audio is read and what is done with it is for others.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from arkasr.errors import InputError

# Utterances meet others that are up to this share longer or shorter, so that batches differ from epoch to epoch.
DURATION_JITTER = 0.1


@dataclass(frozen=True)
class DataPosition:
    """Where the next batch stands.

    Attributes:
        epoch: counted from 0.
        batch: in the epoch, counted from 0.
    """

    epoch: int = 0
    batch: int = 0


class DurationBatchSampler:
    """Every utterance once an epoch, in batches whose padded size stays under the budget.

    Args:
        durations: seconds of every utterance.
        max_audio_seconds: longest utterance times their number, at most.
        text_tokens: tokens of every transcript, where they count.
        max_text_tokens: longest transcript times the number of utterances, at most; a transcript that is longer by
            itself has a batch of its own.
        max_utterances: utterances in a batch, at most.
        shuffle: random batches in random order; else longest first and nothing random.
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
        for place, duration in enumerate(durations):
            if duration > max_audio_seconds:
                raise InputError(
                    f"utterance {place} is {duration:.1f} s long, a batch holds {max_audio_seconds:g} s; "
                    "raise batch_seconds or leave out the utterance"
                )

    def batches(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch, as lists of utterance numbers."""
        generator = random.Random(f"{self.seed}:{epoch}")
        jitter = DURATION_JITTER if self.shuffle else 0.0
        order = sorted(
            range(len(self.durations)),
            key=lambda place: -self.durations[place] * (1 + jitter * (2 * generator.random() - 1)),
        )
        batches: list[list[int]] = []
        longest, most_tokens = 0.0, 0
        for place in order:
            seconds, tokens = self.durations[place], self.text_tokens[place] if self.text_tokens is not None else 0
            longest, most_tokens = max(longest, seconds), max(most_tokens, tokens)
            if batches and self._fits(len(batches[-1]) + 1, longest, most_tokens):
                batches[-1].append(place)
            else:
                batches.append([place])
                longest, most_tokens = seconds, tokens
        if self.shuffle:
            generator.shuffle(batches)
        return batches

    def follow(self, position: DataPosition) -> Iterator[tuple[list[int], DataPosition]]:
        """Batches without end from `position` on, epoch after epoch, each with the position behind it."""
        while True:
            batches = self.batches(position.epoch)
            for place in range(position.batch, len(batches)):
                yield batches[place], DataPosition(position.epoch, place + 1)
            position = DataPosition(position.epoch + 1)

    def _fits(self, utterances: int, longest: float, most_tokens: int) -> bool:
        return (
            (self.max_utterances is None or utterances <= self.max_utterances)
            and longest * utterances <= self.max_audio_seconds
            and (self.text_tokens is None or most_tokens * utterances <= self.max_text_tokens)
        )
