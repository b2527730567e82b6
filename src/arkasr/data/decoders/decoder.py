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

    def read(self, first: int, last: int | None) -> NDArray[np.float32]:
        """Samples `first` to `last - 1`, or to the end, as `[channels, samples]`; fewer if the file ends before.

        Raises:
            InputError: this part of the file is damaged or cut off.
        """
        ...

    def blocks(self, first: int, last: int | None) -> Iterator[NDArray[np.float32]]:
        """What `read` returns, in parts of at most a minute, in memory that does not grow with the file.

        The number of channels may change.

        Raises:
            InputError: as `read`.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...
