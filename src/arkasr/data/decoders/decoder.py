"""What the decoders have in common."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

BLOCK_SECONDS = 60
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

    def blocks(self, first: int, last: int | None) -> Iterator[NDArray[np.float32]]:
        """Samples `first` to `last - 1`, or to the end; fewer if the file ends before.

        Yields parts of at most a minute, `[channels, samples]`. The number of channels may change.

        Raises:
            InputError: this part of the file is damaged or cut off.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def read(decoder: Decoder, first: int, last: int | None) -> NDArray[np.float32]:
    """All that `Decoder.blocks` yields, with as many channels as its first block, `[channels, samples]`."""
    parts = list(decoder.blocks(first, last))
    channels = len(parts[0]) if parts else 1
    alike = (
        part if len(part) == channels else np.repeat(part.mean(axis=0, keepdims=True), channels, axis=0)
        for part in parts
    )
    return np.concatenate([np.zeros((channels, 0), dtype=np.float32), *alike], axis=1)
