"""Recordings that are heard in the background: random pieces of other utterances, or of recorded noise.

Which pieces are read depends only on the random generator. What is done with them is left to others.
"""

from collections.abc import Sequence

import numpy as np

from arkasr.data.audio import SAMPLE_RATE, decode_audio
from arkasr.data.manifests.manifest import Utterance
from arkasr.errors import InputError

MOST_TRIES = 100


class UnreadableSoundError(InputError):
    """A background recording cannot be read. The utterance that it was drawn for is not at fault."""


class Sounds:
    """A set of background recordings.

    Args:
        utterances: the recordings, of any length.
        seconds: duration of each.
        is_training_set: an unreadable recording is replaced by another one, because the stage itself reports it. In any
            other set it is an error.
    """

    def __init__(self, utterances: Sequence[Utterance], seconds: Sequence[float], *, is_training_set: bool) -> None:
        self._utterances = utterances
        self._seconds = seconds
        self._is_training_set = is_training_set

    def pieces(self, count: int, samples: int, rng: np.random.Generator, *, without: str) -> list[np.ndarray]:
        """A random piece of each of `count` different recordings.

        Args:
            count: number of recordings.
            samples: length of a piece, at 16 kHz. The piece of a shorter recording is the whole recording.
            rng: source of all random choices.
            without: id of an utterance that is not used.

        Returns:
            `count` pieces, float32 `[n]`, n at most `samples`.

        Raises:
            UnreadableSoundError: a recording cannot be read, or too few can.
        """
        pieces: list[np.ndarray] = []
        tried: set[int] = set()
        while len(pieces) < count:
            if len(tried) == min(len(self._utterances), MOST_TRIES):
                raise UnreadableSoundError(
                    f"degradation.noise: fewer than {count} of {len(tried)} background recordings can be read; "
                    "`arkasr data check --decode` lists the others"
                )
            index = int(rng.integers(len(self._utterances)))
            if index in tried:
                continue
            tried.add(index)
            utterance = self._utterances[index]
            if utterance.id == without:
                continue
            try:
                pieces.append(self._piece(utterance, float(self._seconds[index]), samples, rng))
            except InputError as error:
                if not self._is_training_set:
                    raise UnreadableSoundError(f"degradation.noise: {error}") from error
        return pieces

    @staticmethod
    def _piece(utterance: Utterance, seconds: float, samples: int, rng: np.random.Generator) -> np.ndarray:
        wanted = samples / SAMPLE_RATE
        begin = (utterance.begin_time or 0.0) + rng.uniform(0, max(seconds - wanted, 0))
        return decode_audio(utterance.audio, begin, begin + min(wanted, seconds))[:samples]
