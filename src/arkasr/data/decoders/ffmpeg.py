"""Files that FFmpeg's libraries decode: compressed audio, and the sound of videos.

Sample 0 is the first one that the decoder gives. The decoder leaves out the samples that the file marks as added by the
encoder. The length is never taken from a header: for some formats it is a guess.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import cached_property
from itertools import islice
from typing import Any, BinaryIO, NamedTuple, Self

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from arkasr.data.decoders.decoder import HEADER_TOLERANCE_SECONDS
from arkasr.data.decoders.markers import has_last_page, is_joined_ogg, mpeg_frames
from arkasr.errors import InputError

# Playlists are not among them: they would make FFmpeg open other files and addresses.
CONTAINERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,eac3,flac,flv,loas,m4v,matroska,webm,mp3,mov,mp4,m4a,3gp,"
    "3g2,mj2,mpeg,mpegts,mxf,nistsphere,ogg,oma,rm,tak,truehd,tta,voc,w64,wav,wv,xwma"
)
# Their duration is stored, not guessed from the bit rate.
CONTAINERS_WITH_DURATION = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "ogg"}
ADDED_MPEG_FRAMES = 4  # most frames of silence that an MP3 encoder adds, and the decoder leaves out
# Decoded before a piece and dropped, so that the decoder no longer depends on where it began.
PREROLL_SECONDS = 1.0
# Timestamps of contiguous frames may be rounded, and clocks drift. Larger gaps are filled with silence.
CONTIGUOUS_SECONDS = 0.02
LONGEST_GAP_SECONDS = 3600.0
FIRST_FRAMES = 64


class Block(NamedTuple):
    """Decoded samples.

    Attributes:
        first: position of the first sample.
        samples: float32 `[channels, samples]`.
    """

    first: int
    samples: NDArray[np.float32]

    @property
    def last(self) -> int:
        """The position after the last sample."""
        return self.first + self.samples.shape[1]


class Timestamps(NamedTuple):
    """How timestamps of a stream relate to samples.

    Attributes:
        samples_per_tick: may be less or more than 1.
        origin: ticks of sample 0.
        grid: frames begin at multiples of so many samples; 1 = anywhere.
        offset: of sample 0 in this grid.
    """

    samples_per_tick: Fraction
    origin: int
    grid: int = 1
    offset: int = 0

    @classmethod
    def from_first(cls, frame: Any) -> Self:
        """Those of a stream that begins with a frame."""
        return cls(Fraction(frame.time_base * frame.sample_rate), frame.pts or 0)

    def position(self, ticks: int | None) -> int:
        """The sample at which a frame with this timestamp begins; about 0 if it has none."""
        numerator, denominator = self.samples_per_tick.as_integer_ratio()
        since_origin = 0 if ticks is None else (ticks - self.origin) * numerator
        nearest = _nearest(since_origin + self.offset * denominator, self.grid * denominator)
        return nearest * self.grid - self.offset

    def ticks(self, position: int) -> int:
        """A timestamp that is not after the sample."""
        return self.origin + math.floor(position / self.samples_per_tick)


class FfmpegFile:
    """A file that FFmpeg decodes.

    Args:
        file: an open, seekable file. It is closed with this one.
        name: of the file, for messages.
        ignore_length: of a WAV file: read on to the end of the file.

    Raises:
        InputError: FFmpeg cannot read it, or it has no sound.
    """

    def __init__(self, file: BinaryIO, name: str, *, ignore_length: bool = False) -> None:
        self.file, self.name = file, name
        self.options = {"format_whitelist": CONTAINERS} | ({"ignore_length": "1"} if ignore_length else {})
        with self._open() as (container, stream):
            self.rate = int(stream.codec_context.sample_rate)
            self.container = container.format.name

    @cached_property
    def frames(self) -> int:
        with self._open() as (container, stream):
            pts = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
        last = self._timestamps.position(max(pts)) if self._timestamps and pts else 0
        end = 0
        for block in self._blocks(last):
            end = block.last
        return end

    def read(self, first: int, last: int | None) -> NDArray[np.float32]:
        end = math.inf if last is None else last
        parts: list[NDArray[np.float32]] = []
        wanted = first
        for block in self._blocks(first):
            if block.first >= end:
                break
            if block.last <= wanted:
                continue
            channels = len(parts[0]) if parts else len(block.samples)
            parts.append(np.zeros((channels, max(block.first - wanted, 0)), dtype=np.float32))
            until = int(min(block.last, end))
            part = block.samples[:, max(wanted - block.first, 0) : until - block.first]
            parts.append(part if len(part) == channels else np.repeat(part.mean(axis=0, keepdims=True), channels, 0))
            wanted = until
            if wanted == end:
                break
        return np.concatenate(parts, axis=1) if parts else np.zeros((1, 0), dtype=np.float32)

    def close(self) -> None:
        self.file.close()

    def _blocks(self, first: int) -> Iterator[Block]:
        """The decoded stream, from a block that begins at or before a sample, to the end."""
        begin = first - round(PREROLL_SECONDS * self.rate)
        if begin > 0 and self._timestamps is not None:
            with self._open() as (container, stream):
                container.seek(self._timestamps.ticks(begin), stream=stream)
                blocks = self._decoded(container, stream, self._timestamps)
                block = next(blocks, None)
                if block is not None and block.first <= first:
                    yield block
                    yield from blocks
                    return
        with self._open() as (container, stream):
            yield from self._decoded(container, stream, None)

    def _decoded(self, container: Any, stream: Any, timestamps: Timestamps | None) -> Iterator[Block]:
        """The rest of the stream.

        Args:
            container: at its beginning, or after a seek.
            stream: of the container.
            timestamps: needed after a seek; None = at the beginning.

        Raises:
            InputError: a part of it is lost, or it is cut off.
        """
        expected, lost = None if timestamps else 0, 0.0
        is_trimmed = timestamps is not None  # the first frame after a seek may lack its first samples
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError as error:
                # Decoders need some packets after a seek until they work.
                lost += 0 if expected is None else float((packet.duration or 0) * packet.time_base)
                if lost > HEADER_TOLERANCE_SECONDS:
                    raise InputError(
                        f"{self.name}: damaged at {(expected or 0) / self.rate:.2f} s ({error.strerror}); replace it"
                    ) from error
                continue
            for frame in frames[is_trimmed:]:
                if frame.sample_rate != self.rate:
                    raise InputError(
                        f"{self.name}: its sample rate changes from {self.rate} to {frame.sample_rate} Hz; convert it"
                    )
                timestamps = timestamps or Timestamps.from_first(frame)
                block = Block(self._first_sample(timestamps.position(frame.pts), expected), _channels(frame))
                expected = block.last
                yield block
            is_trimmed &= not frames
        self._check_end(container, stream, expected or 0)

    def _first_sample(self, position: int, expected: int | None) -> int:
        if expected is None:
            return position
        gap = (position - expected) / self.rate
        if gap > LONGEST_GAP_SECONDS:
            raise InputError(f"{self.name}: its timestamps jump by {gap:.0f} s; convert it")
        # Timestamps go back where files were joined.
        return expected if gap <= CONTIGUOUS_SECONDS else position

    @cached_property
    def _timestamps(self) -> Timestamps | None:
        """Those of the stream; None if they do not tell at which sample a frame begins."""
        if self.container == "wav" or (self.container == "ogg" and is_joined_ogg(self.file)):
            return None
        with self._open() as (container, stream):
            is_vorbis = stream.codec_context.name == "vorbis"  # FFmpeg's are wrong where the block size changes
            frames = [] if is_vorbis else list(islice(container.decode(stream), FIRST_FRAMES))
        if not frames:
            return None
        timestamps = Timestamps.from_first(frames[0])
        if timestamps.samples_per_tick > 1:
            grid = math.gcd(*(frame.samples for frame in frames[1:-1]))
            timestamps = timestamps._replace(grid=max(grid, 1), offset=-frames[0].samples % max(grid, 1))
        return timestamps if timestamps.samples_per_tick <= timestamps.grid else None

    def _check_end(self, container: Any, stream: Any, end: int) -> None:
        """Raise an error if the stream should go on after sample `end`."""
        if self.container == "ogg" and not has_last_page(self.file):
            raise InputError(
                f"{self.name}: is cut off at {end / self.rate:.2f} s: it has no last page; replace it, or convert it "
                "if it is complete"
            )
        promised = self._promised_seconds(container, stream)
        if promised is not None and end / self.rate < promised - HEADER_TOLERANCE_SECONDS:
            raise InputError(
                f"{self.name}: ends at {end / self.rate:.2f} s, its header says {promised:.2f} s; replace it if "
                "truncated, else convert it"
            )

    def _promised_seconds(self, container: Any, stream: Any) -> float | None:
        """The least length that the header promises; None if it promises none, or perhaps that of another stream."""
        if self.container == "mp3" and (frames := mpeg_frames(self.file)):
            return (frames - ADDED_MPEG_FRAMES) * stream.codec_context.frame_size / self.rate
        if self.container == "caf" and stream.codec_context.name.startswith("pcm_"):
            return float(stream.frames / self.rate)  # the duration is that of the samples that were found
        if self.container not in CONTAINERS_WITH_DURATION:
            return None
        if stream.duration is not None:
            return float(stream.duration * stream.time_base)
        return container.duration / av.time_base if container.duration and len(container.streams) == 1 else None

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        self.file.seek(0)
        try:
            with av.open(self.file, options=self.options, metadata_errors="replace") as container:
                stream: Any = container.streams.best("audio")
                if stream is None:
                    raise InputError(f"{self.name}: has no sound; leave it out")
                if stream.codec_context is None or not stream.codec_context.sample_rate:
                    raise InputError(f"{self.name}: has sound of an unknown kind; convert the file or leave it out")
                yield container, stream
        except (av.error.FFmpegError, OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"{self.name}: not audio that can be read ({reason}); convert the file or leave it out"
            ) from error


def _nearest(numerator: int, denominator: int) -> int:
    """The whole number nearest to a fraction. Python's fractions are slow, and there is one per frame."""
    return (2 * numerator + denominator) // (2 * denominator)


def _channels(frame: Any) -> NDArray[np.float32]:
    """The samples of a frame, float32 `[channels, samples]`, from −1 to 1."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        return np.asarray((samples.astype(np.float32) - 128) / 128)
    scale = 1 if np.issubdtype(samples.dtype, np.floating) else -float(np.iinfo(samples.dtype).min)
    return np.asarray(samples / scale, dtype=np.float32)
