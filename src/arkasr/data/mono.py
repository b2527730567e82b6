"""One channel at 16 kHz from any number of channels at any rate, block by block, so that memory grows only with the
result. In: blocks of samples. Out: a waveform.
"""

from collections.abc import Callable, Iterator

import numpy as np
import soxr
from numpy.typing import NDArray

SAMPLE_RATE = 16_000  # samples per second
# Share of the energy that the average keeps if one channel has sound and all others are silent. Less is cancelled.
CANCELLED_SHARE = 0.8

Samples = NDArray[np.float32]


def mono(blocks: Callable[[], Iterator[Samples]], rate: int) -> tuple[Samples, int]:
    """The average of the channels; the loudest channel if the average is much quieter, because it may be inverted.

    Args:
        blocks: reads the channels from the beginning, float32 `[channels, samples]`; called again if channels cancel
            each other. All blocks have the same channels.
        rate: samples per second.

    Returns:
        float32 `[samples]`, 16 kHz, and how many samples of each channel were read.
    """
    levels = Levels()
    waveform, count = _resampled((levels.averaged(block) for block in blocks()), rate)
    loudest = levels.uncancelled()
    return (waveform, count) if loudest is None else _resampled((block[loudest] for block in blocks()), rate)


class Levels:
    """Variances of channels, and of their average, over the blocks of a stream."""

    def __init__(self) -> None:
        self._count = 0
        self._means: NDArray[np.float64] = np.zeros(())
        self._squares: NDArray[np.float64] = np.zeros(())  # sums of squared distances from the means

    def averaged(self, channels: Samples) -> Samples:
        """The average of a block `[channels, samples]`, float32 `[samples]`; the block counts."""
        average: Samples = channels.mean(axis=0)
        if len(channels) > 1 and len(average):
            self._add(np.stack([self._moments(signal) for signal in (average, *channels)], axis=1), len(average))
        return average

    def uncancelled(self) -> int | None:
        """The loudest channel if the average is much quieter; None if the average is good."""
        if not self._count:
            return None
        average, channels = self._squares[0], self._squares[1:]
        loudest = int(np.argmax(channels >= 0.99 * channels.max()))  # the first of channels that are equally loud
        return loudest if average < CANCELLED_SHARE * channels[loudest] / len(channels) ** 2 else None

    @staticmethod
    def _moments(signal: Samples) -> tuple[float, float]:
        mean = signal.mean(dtype=np.float64)
        return float(mean), float(np.square(signal - mean).sum())

    def _add(self, moments: NDArray[np.float64], count: int) -> None:
        """Merge the moments `[2, 1 + channels]` of a block (Chan, Golub and LeVeque 1979)."""
        means, squares = moments
        whole = self._count + count
        distance = means - self._means
        self._squares = self._squares + squares + distance**2 * (self._count * count / whole)
        self._means = self._means + distance * (count / whole)
        self._count = whole


def _resampled(blocks: Iterator[Samples], rate: int) -> tuple[Samples, int]:
    """Blocks `[samples]` as one waveform at 16 kHz, and how many samples they had."""
    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    parts, count = [np.zeros(0, dtype=np.float32)], 0
    for block in blocks:
        count += len(block)
        parts.append(block if rate == SAMPLE_RATE else resampler.resample_chunk(np.ascontiguousarray(block)))
    if rate != SAMPLE_RATE:
        parts.append(resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True))
    return np.concatenate(parts), count
