"""Writes one waveform in many containers and codecs, as programs and devices do."""

from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
import soundfile
import soxr

RATE = 16_000


class FfmpegFormat(NamedTuple):
    """How FFmpeg writes a file."""

    container: str
    codec: str
    rate: int = 44_100
    layout: str = "mono"
    bit_rate: int | None = None
    options: tuple[str, ...] = ()


class SndfileFormat(NamedTuple):
    """How libsndfile writes a file."""

    container: str
    subtype: str
    rate: int = RATE


FORMATS = {
    "u8.wav": SndfileFormat("WAV", "PCM_U8"),
    "16.wav": SndfileFormat("WAV", "PCM_16"),
    "24.wav": SndfileFormat("WAV", "PCM_24", 48_000),
    "32.wav": SndfileFormat("WAV", "PCM_32"),
    "float.wav": SndfileFormat("WAV", "FLOAT"),
    "alaw.wav": SndfileFormat("WAV", "ALAW", 8_000),
    "ulaw.wav": SndfileFormat("WAV", "ULAW", 8_000),
    "ima.wav": SndfileFormat("WAV", "IMA_ADPCM"),
    "ms.wav": SndfileFormat("WAV", "MS_ADPCM"),
    "gsm.wav": SndfileFormat("WAV", "GSM610", 8_000),
    "extensible.wav": SndfileFormat("WAVEX", "PCM_16"),
    "a.sph": SndfileFormat("NIST", "PCM_16"),
    "a.w64": SndfileFormat("W64", "PCM_16"),
    "a.rf64": SndfileFormat("RF64", "PCM_16"),
    "a.aiff": SndfileFormat("AIFF", "PCM_16"),
    "a.au": SndfileFormat("AU", "PCM_16"),
    "a.caf": SndfileFormat("CAF", "PCM_16"),
    "a.flac": SndfileFormat("FLAC", "PCM_16"),
    "a.ogg": SndfileFormat("OGG", "VORBIS"),
    "a.opus": SndfileFormat("OGG", "OPUS", 48_000),
    "vbr.mp3": SndfileFormat("MP3", "MPEG_LAYER_III"),
    "cbr.mp3": FfmpegFormat("mp3", "libmp3lame", bit_rate=64_000),
    "aac.m4a": FfmpegFormat("ipod", "aac"),
    "alac.m4a": FfmpegFormat("ipod", "alac"),
    "raw.aac": FfmpegFormat("adts", "aac"),
    "aac.mkv": FfmpegFormat("matroska", "aac"),
    "flac.mkv": FfmpegFormat("matroska", "flac"),
    "opus.webm": FfmpegFormat("webm", "libopus", 48_000),
    "vorbis.webm": FfmpegFormat("webm", "vorbis", layout="stereo", options=("strict=experimental",)),
    "a.mov": FfmpegFormat("mov", "pcm_s16le"),
    "a.amr": FfmpegFormat("amr", "libopencore_amrnb", 8_000),
    "a.wma": FfmpegFormat("asf", "wmav2", bit_rate=64_000),
    "a.ac3": FfmpegFormat("ac3", "ac3", 48_000),
    "44.ac3": FfmpegFormat("ac3", "ac3"),
    "flac.ogg": FfmpegFormat("ogg", "flac"),
    "a.avi": FfmpegFormat("avi", "pcm_s16le"),
    "a.ts": FfmpegFormat("mpegts", "aac"),
    "film.mp4": FfmpegFormat("mp4", "aac", 48_000, "stereo"),
}


def write_audio(path, samples, form, *, begin=0.0, gap=None):
    """Write float32 `[samples]`, 16 kHz mono, in a format of `FORMATS`. A file named `film` has pictures, too.

    Args:
        path: to be written.
        samples: what is heard.
        form: how FFmpeg or libsndfile writes it.
        begin: seconds of the first timestamp; of a format with timestamps.
        gap: second at which timestamps jump, and by how many seconds; of a format with timestamps.
    """
    wide = soxr.resample(samples, RATE, form.rate) if form.rate != RATE else samples
    if isinstance(form, SndfileFormat):
        soundfile.write(path, wide, form.rate, format=form.container, subtype=form.subtype)
        return
    with av.open(str(path), "w", format=form.container) as container:
        if path.name.startswith("film"):
            container.add_stream("mpeg4", rate=5, width=32, height=32, pix_fmt="yuv420p")
        options = dict(option.split("=") for option in form.options)
        stream = container.add_stream(form.codec, rate=form.rate, layout=form.layout, options=options)
        if form.bit_rate:
            stream.bit_rate = form.bit_rate
        for packet in _packets(stream, wide, form):
            if packet.pts is not None:
                after_gap = gap is not None and packet.pts * packet.time_base >= gap[0]
                late = round((begin + (gap[1] if after_gap else 0.0)) / packet.time_base)
                packet.pts, packet.dts = packet.pts + late, packet.dts + late
            container.mux(packet)
        for video in container.streams.video:
            for _ in range(5 * len(samples) // RATE):
                container.mux(video.encode(av.VideoFrame(32, 32, "yuv420p")))
            container.mux(video.encode(None))


def _packets(stream, samples, form):
    channels = 2 if form.layout == "stereo" else 1
    frame = av.AudioFrame.from_ndarray(np.tile(samples, (channels, 1)), format="fltp", layout=form.layout)
    frame.sample_rate, frame.pts, frame.time_base = form.rate, 0, Fraction(1, form.rate)
    sample_format = stream.codec_context.format.name
    resampler = av.AudioResampler(format=sample_format, layout=form.layout, rate=form.rate)
    for part in (*resampler.resample(frame), *resampler.resample(None)):
        yield from stream.encode(part)
    yield from stream.encode(None)


def remux(source, destination):
    """Put the encoded audio of one file into another container."""
    with av.open(str(source)) as read, av.open(str(destination), "w") as written:
        stream = read.streams.audio[0]
        copy = written.add_stream_from_template(stream)
        for packet in read.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                written.mux(packet)


def noise_rows(folder):
    """Manifest rows of three recordings of noise, which are written to a folder."""
    generator = np.random.default_rng(0)
    rows = []
    for index, seconds in enumerate((0.5, 2.0, 1.1)):
        soundfile.write(folder / f"{index}.wav", generator.normal(size=int(seconds * 16_000)) * 0.1, 16_000)
        rows.append({"audio": f"{index}.wav", "language": "English", "text": "truth", "id": str(index), "extra": index})
    return rows
