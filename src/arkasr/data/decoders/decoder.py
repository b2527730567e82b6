"""What the decoders have in common."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

BLOCK_SAMPLES = 2**20  # of all channels, 4 MiB
# A recording may end this much before the length in its header. Headers of MP3 files count padding.
HEADER_TOLERANCE_SECONDS = 0.1


class Decoder(Protocol):
    """An open audio file.

    Attributes:
        rate: samples per second.
    """

    rate: int

    @property
    def frames(self) -> int:
        """Length in samples. If a header can be wrong, they are counted.

        Raises:
            InputError: the end of the file is damaged or missing.
        """
        ...

    def counted_frames(self) -> Iterator[int]:
        """The samples found so far, after each small step of counting; the last number is `frames`.

        Raises:
            InputError: as `frames`.
        """
        ...

    def blocks(self, first: int, last: int | None) -> Iterator[NDArray[np.float32]]:
        """Samples `first` to `last - 1`, or to the end; fewer if the file ends before.

        Yields parts of at most about `BLOCK_SAMPLES`, `[channels, samples]`. The number of channels may change.

        Raises:
            InputError: this part of the file is damaged or cut off.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def joined_blocks(decoder: Decoder, first: int, last: int | None) -> Iterator[NDArray[np.float32]]:
    """A decoder's blocks `[channels, samples]`, joined to at least `BLOCK_SAMPLES` where they are smaller.

    All have as many channels as the first one. Where the number changes, the average takes the place of each.
    """
    parts: list[NDArray[np.float32]] = []
    channels = waiting = 0
    for part in decoder.blocks(first, last):
        channels = channels or len(part)
        parts.append(part if len(part) == channels else np.repeat(part.mean(axis=0, keepdims=True), channels, axis=0))
        waiting += parts[-1].size
        if waiting >= BLOCK_SAMPLES:
            yield _joined(parts)
            parts, waiting = [], 0
    if parts:
        yield _joined(parts)


def _joined(parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    # Sums over channels are rounded differently in another order of memory.
    return np.ascontiguousarray(np.concatenate(parts, axis=1))
