"""Files that FFmpeg's libraries decode: compressed audio, and the sound of videos.

Sample 0 is the first one that the decoder gives. The decoder leaves out the samples that the file marks as added by the
encoder. The length is never taken from a header: for some formats it is a guess.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import cached_property
from itertools import accumulate, islice
from typing import Any, BinaryIO, NamedTuple, Self

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from arkasr.data.decoders.decoder import BLOCK_SAMPLES, HEADER_TOLERANCE_SECONDS
from arkasr.data.decoders.markers import has_last_page, is_joined_ogg, mpeg_frames
from arkasr.errors import InputError

# Playlists are not among them: they would make FFmpeg open other files and addresses.
CONTAINERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,eac3,flac,flv,loas,m4v,matroska,webm,mp3,mov,mp4,m4a,3gp,"
    "3g2,mj2,mpeg,mpegts,mxf,nistsphere,ogg,oma,rm,tak,truehd,tta,voc,w64,wav,wv,xwma"
)
# Their duration is stored, not guessed from the bit rate.
CONTAINERS_WITH_DURATION = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "ogg", "asf", "avi"}
# Their frames have timestamps of their own, and there may be gaps between them.
TIMED_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "ogg", "asf", "avi", "flv"}
# Their timestamps do not say exactly where a frame begins, or begin again where files were joined.
UNTIMED_CONTAINERS = {"wav", "mpeg", "mpegts"}
ADDED_MPEG_FRAMES = 4  # most frames of silence that an MP3 encoder adds, and the decoder leaves out
# Decoded before a piece and dropped, so that the decoder no longer depends on where it began.
PREROLL_SECONDS = 1.0
# Timestamps of contiguous frames may be rounded, and clocks drift. Larger gaps are filled with silence.
CONTIGUOUS_SECONDS = 0.02
LONGEST_GAP_SECONDS = 3600.0
JOINED_SECONDS = 1.0
FIRST_FRAMES = 64
PACKETS_PER_STEP = 2**12


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
        *_, frames = self.counted_frames()
        return frames

    def counted_frames(self) -> Iterator[int]:
        last = 0
        if self._timestamps is not None:
            with self._open() as (container, stream):
                for number, packet in enumerate(container.demux(stream), 1):
                    if packet.pts is not None:
                        last = max(last, self._timestamps.position(packet.pts))
                    if number % PACKETS_PER_STEP == 0:
                        yield last
        end = counted = 0
        for block in self._blocks(last):
            end = block.last
            if end - counted >= BLOCK_SAMPLES:
                counted = end
                yield end
        yield end

    def blocks(self, first: int, last: int | None) -> Iterator[NDArray[np.float32]]:
        end = math.inf if last is None else last
        wanted = first
        for block in self._blocks(first):
            if block.last <= wanted:
                continue
            gap_end = int(min(block.first, end))
            while wanted < gap_end:
                gap = min(gap_end - wanted, max(BLOCK_SAMPLES // len(block.samples), 1))
                yield np.zeros((len(block.samples), gap), dtype=np.float32)
                wanted += gap
            until = int(min(block.last, end))
            if until > wanted:
                yield block.samples[:, wanted - block.first : until - block.first]
                wanted = until
            if wanted >= end:
                return

    def close(self) -> None:
        self.file.close()

    def _blocks(self, first: int) -> Iterator[Block]:
        """The decoded stream, from a block that begins at or before a sample, to the end."""
        begin = first - round(PREROLL_SECONDS * self.rate)
        if begin > 0 and self._timestamps is not None:
            with self._open() as (container, stream):
                container.seek(self._timestamps.ticks(begin), stream=stream)
                blocks = self._decoded(container, stream, self._timestamps, after_seek=True)
                block = next(blocks, None)
                if block is not None and block.first <= first:
                    yield block
                    yield from blocks
                    return
        # In other containers, timestamps are counted from the frames, so there are no gaps.
        timestamps = self._timestamps if self.container in TIMED_CONTAINERS else None
        with self._open() as (container, stream):
            yield from self._decoded(container, stream, timestamps, after_seek=False)

    def _decoded(
        self, container: Any, stream: Any, timestamps: Timestamps | None, *, after_seek: bool
    ) -> Iterator[Block]:
        """The rest of the stream.

        Args:
            container: at its beginning, or after a seek.
            stream: of the container.
            timestamps: they place each frame; None = each frame follows the one before.
            after_seek: whether the container is not at its beginning.

        Raises:
            InputError: a part of it is lost, or it is cut off.
        """
        expected = None if after_seek else 0
        is_trimmed = after_seek  # the first frame after a seek may lack its first samples
        for frame, lost in self._frames(container, stream, is_strict=not after_seek):
            if is_trimmed:
                is_trimmed = False
                continue
            if frame.sample_rate != self.rate:
                raise InputError(
                    f"{self.name}: its sample rate changes from {self.rate} to {frame.sample_rate} Hz; convert it"
                )
            if timestamps is None:
                first = (expected or 0) + round(lost * self.rate)
            else:
                first = self._first_sample(timestamps, frame, expected)
            block = Block(first, _channels(frame))
            expected = block.last
            yield block
        if expected is not None:
            self._check_end(container, stream, expected)

    def _frames(self, container: Any, stream: Any, *, is_strict: bool) -> Iterator[tuple[Any, float]]:
        """The frames of the rest of the stream, each with the seconds that were lost before it.

        Args:
            container: at its beginning, or after a seek.
            stream: of the container.
            is_strict: whether more than `HEADER_TOLERANCE_SECONDS` of undecodable packets are an error. After a seek,
                decoders need some packets until they work.
        """
        lost, lost_in_all, is_working = 0.0, 0.0, is_strict
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                seconds_lost = float((packet.duration or 0) * packet.time_base) if is_working else 0.0
                lost, lost_in_all = lost + seconds_lost, lost_in_all + seconds_lost
                if lost_in_all > HEADER_TOLERANCE_SECONDS:
                    place = "" if packet.pts is None else f" at {float(packet.pts * packet.time_base):.2f} s"
                    raise InputError(f"{self.name}: damaged{place} ({error.strerror}); replace it") from error
                continue
            is_working |= bool(frames)
            for frame in frames:
                yield frame, lost
                lost = 0.0

    def _first_sample(self, timestamps: Timestamps, frame: Any, expected: int | None) -> int:
        position = timestamps.position(frame.pts)
        if expected is None:
            return position
        gap = (position - expected) / self.rate
        # Timestamps go far back where files were joined.
        if abs(gap) <= CONTIGUOUS_SECONDS or gap < -JOINED_SECONDS or frame.pts is None:
            return expected
        if gap > LONGEST_GAP_SECONDS:
            raise InputError(f"{self.name}: its timestamps jump by {gap:.0f} s; convert it")
        if self.container == "ogg":
            raise InputError(f"{self.name}: damaged at {expected / self.rate:.2f} s ({gap:.2f} s lost); replace it")
        return position

    @cached_property
    def _timestamps(self) -> Timestamps | None:
        """Those of the stream; None if they do not tell at which sample a frame begins."""
        if self.container in UNTIMED_CONTAINERS or (self.container == "ogg" and is_joined_ogg(self.file)):
            return None
        with self._open() as (container, stream):
            codec = stream.codec_context.name
            frames = [frame for frame, _ in islice(self._frames(container, stream, is_strict=False), FIRST_FRAMES)]
        # FFmpeg's are wrong where the block size of Vorbis changes, and at the end of FLAC in Ogg.
        if not frames or codec == "vorbis" or (codec == "flac" and self.container == "ogg"):
            return None
        timestamps = Timestamps.from_first(frames[0])
        if timestamps.samples_per_tick > 1:
            grid = max(math.gcd(*(frame.samples for frame in frames[1:-1])), 1)
            timestamps = timestamps._replace(grid=grid, offset=-frames[0].samples % grid)
        if timestamps.samples_per_tick > timestamps.grid:
            return None
        counted = accumulate((frame.samples for frame in frames), initial=0)
        drifts = any(
            0 < abs(timestamps.position(frame.pts) - position) < CONTIGUOUS_SECONDS * self.rate
            for frame, position in zip(frames, counted, strict=False)
        )
        return None if drifts and self.container not in TIMED_CONTAINERS else timestamps

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
        start = max(float((stream.start_time or 0) * stream.time_base), 0.0)
        if stream.duration is not None:
            return float(stream.duration * stream.time_base) - start
        return container.duration / av.time_base - start if container.duration and len(container.streams) == 1 else None

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        self.file.seek(0)
        try:
            with av.open(_Source(self.file), options=self.options, metadata_errors="replace") as container:
                stream: Any = container.streams.best("audio")
                if stream is None:
                    raise InputError(f"{self.name}: has no sound; leave it out")
                if stream.codec_context is None or not stream.codec_context.sample_rate:
                    raise InputError(f"{self.name}: has sound of an unknown kind; convert the file or leave it out")
                yield container, stream
        except (av.error.FFmpegError, OSError, UnicodeError, IndexError) as error:
            # IndexError: a stream that was not there at the beginning.
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"{self.name}: not audio that can be read ({reason}); convert the file or leave it out"
            ) from error


class _Source:
    """A file for PyAV, which prints a traceback if a seek fails instead of returning an error."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.tell = file.read, file.tell
        self._seek = file.seek

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Seek as in a file; −1 if there is no such place."""
        try:
            return self._seek(offset, whence)
        except (OSError, OverflowError, ValueError):
            return -1


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
