"""Files that libsndfile reads exactly: PCM in its containers, FLAC, and Ogg Vorbis."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from arkasr.data.decoders.decoder import BLOCK_SAMPLES, HEADER_TOLERANCE_SECONDS
from arkasr.errors import InputError

# First bytes of WAV, RF64, AIFF, W64, AU, CAF, NIST SPHERE and FLAC.
SIGNATURES = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"riff", b".snd", b"caff", b"NIST_1A", b"fLaC")
# libsndfile reports about 2**63 frames for a stream whose header has no length.
MAX_FRAMES = 2**40
# Programs that write to a pipe do not know the size of the data; they write one of these numbers, or a little less.
SIZES_FROM_PIPES = (0x7FFF_F000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
LARGEST_HEADER_BYTES = 4096
# What libsndfile's log says if a file or chunk is shorter than its header says: in bytes, for RF64 in samples.
CUT_CHUNK = re.compile(
    r"^\s*(?:riff|data|SSND|Data Size)\s*: (?P<promised>\d+) \(should be (?P<found>\d+)\)"
    r"|^\*\*\* Calculated frame count (?P<frames>\d+) does not match value from 'ds64' chunk of "
    r"(?P<promised_frames>\d+)",
    re.MULTILINE,
)


class SndFile:
    """A file open in libsndfile.

    Args:
        file: a path, or an open file.
        name: of the file, for messages.
        goes_on: as `data_goes_on` finds.
        promised_frames: the length in the header, where libsndfile does not compare it with the file; None = it does.

    Raises:
        InputError: the file is cut off.
        soundfile.LibsndfileError: libsndfile cannot read it.
    """

    def __init__(
        self, file: Path | BinaryIO, name: str, *, goes_on: bool = False, promised_frames: int | None = None
    ) -> None:
        self.name, self.source, self.goes_on = name, file, goes_on
        self.file = soundfile.SoundFile(os.fsencode(file) if isinstance(file, Path) else file)
        self.rate, self.frames = int(self.file.samplerate), int(self.file.frames)
        self._check_data_size()
        if promised_frames is not None and self.frames < promised_frames - HEADER_TOLERANCE_SECONDS * self.rate:
            self.close()
            raise _cut_off(name, self.frames / self.rate, promised_frames / self.rate)

    @property
    def has_length(self) -> bool:
        """Whether the header has a length. An unfinished file has none, and one of 4 GiB or more a wrong one."""
        return 0 < self.frames < MAX_FRAMES and not (self.file.format in ("WAV", "WAVEX") and self.goes_on)

    def counted_frames(self) -> Iterator[int]:
        yield self.frames

    def blocks(self, first: int, last: int | None) -> Iterator[NDArray[np.float32]]:
        last = self.frames if last is None else min(last, self.frames)
        length = max(BLOCK_SAMPLES // self.file.channels, 1)
        for begin in range(first, last, length):
            yield self._block(begin, min(begin + length, last))

    def _block(self, first: int, last: int) -> NDArray[np.float32]:
        try:
            self.file.seek(first)
            samples = self.file.read(last - first, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise InputError(f"{self.name}: cannot be decoded ({error}); convert the file or leave it out") from error
        if len(samples) < last - first - HEADER_TOLERANCE_SECONDS * self.rate:
            raise _cut_off(self.name, (first + len(samples)) / self.rate, self.frames / self.rate)
        return np.asarray(samples.T, dtype=np.float32)

    def close(self) -> None:
        self.file.close()
        if not isinstance(self.source, Path):
            self.source.close()

    def _check_data_size(self) -> None:
        """Find the cut in the log: libsndfile itself reads the file up to the cut."""
        cut = CUT_CHUNK.search(self.file.extra_info)
        if cut is None or not self.frames:
            return
        found, promised = map(int, (cut["found"] or cut["frames"], cut["promised"] or cut["promised_frames"]))
        seconds = self.frames / self.rate
        missing = seconds * (promised / max(found, 1) - 1)
        is_from_pipe = any(0 <= size - promised < LARGEST_HEADER_BYTES for size in SIZES_FROM_PIPES)
        if not is_from_pipe and missing > HEADER_TOLERANCE_SECONDS:
            self.close()
            raise _cut_off(self.name, seconds, seconds + missing)


def _cut_off(name: str, seconds: float, promised_seconds: float) -> InputError:
    return InputError(
        f"{name}: ends at {seconds:.2f} s, its header says {promised_seconds:.2f} s; replace it if truncated, else "
        "convert it"
    )
