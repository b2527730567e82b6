"""Files that libsndfile reads exactly: PCM in its containers, FLAC, and Ogg Vorbis."""

import os
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from arkasr.data.decoders.decoder import HEADER_TOLERANCE_SECONDS
from arkasr.errors import InputError

# First bytes of WAV, RF64, AIFF, W64, AU, CAF, NIST SPHERE and FLAC.
SIGNATURES = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"riff", b".snd", b"caff", b"NIST_1A", b"fLaC")
# libsndfile reports about 2**63 frames for a stream whose header has no length.
MAX_FRAMES = 2**40
# Programs that write to a pipe do not know the size of the data; they write this number or more.
SIZE_FROM_PIPE = 0x7FFF_F000
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

    Raises:
        InputError: the file is cut off.
        soundfile.LibsndfileError: libsndfile cannot read it.
    """

    def __init__(self, file: Path | BinaryIO, name: str) -> None:
        self.name, self.source = name, file
        self.file = soundfile.SoundFile(os.fsencode(file) if isinstance(file, Path) else file)
        self.rate, self.frames = int(self.file.samplerate), int(self.file.frames)
        self._check_data_size()

    @property
    def has_length(self) -> bool:
        """Whether the header has a length. That of an unfinished file has none."""
        return 0 < self.frames < MAX_FRAMES

    def read(self, first: int, last: int | None) -> NDArray[np.float32]:
        last = self.frames if last is None else min(last, self.frames)
        try:
            self.file.seek(min(first, self.frames))
            samples = self.file.read(max(last - first, 0), dtype="float32", always_2d=True)
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
        if promised < SIZE_FROM_PIPE and missing > HEADER_TOLERANCE_SECONDS:
            self.close()
            raise _cut_off(self.name, seconds, seconds + missing)


def _cut_off(name: str, seconds: float, promised_seconds: float) -> InputError:
    return InputError(
        f"{name}: ends at {seconds:.2f} s, its header says {promised_seconds:.2f} s; replace it if truncated, else "
        "convert it"
    )
