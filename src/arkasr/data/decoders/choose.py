"""Which decoder reads a file: libsndfile where it is exact, else FFmpeg's libraries."""

from pathlib import Path
from typing import BinaryIO

import soundfile

from arkasr.data.decoders.decoder import Decoder
from arkasr.data.decoders.ffmpeg import FfmpegFile
from arkasr.data.decoders.markers import (
    data_goes_on,
    has_last_page,
    id3_bytes,
    is_joined_ogg,
    is_vorbis,
    nist_samples,
)
from arkasr.data.decoders.sndfile import SIGNATURES, SndFile
from arkasr.data.slices import Slice, containing_file, parse_slice
from arkasr.errors import InputError


def open_decoder(path: str | Path) -> Decoder:
    """Open an audio file, or one in a tar.

    Raises:
        InputError: it does not exist, is cut off, or neither library can read it.
    """
    try:
        if not containing_file(Path(path)).is_file():
            raise InputError(f"{path}: no such audio file; correct the path")
        file = _bytes_of(path)
        try:
            return _decoder(file, path)
        except BaseException:
            file.close()
            raise
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be opened ({reason}); correct the path or its permissions") from error


def _decoder(file: BinaryIO, path: str | Path) -> Decoder:
    name = str(path)
    tag_bytes = id3_bytes(file)
    file.seek(tag_bytes)
    signature = file.read(8)
    if not signature:
        raise InputError(f"{path}: is empty; leave it out")
    is_vorbis_file = signature.startswith(b"OggS") and is_vorbis(file)
    if not signature.startswith(SIGNATURES) and not (
        is_vorbis_file and has_last_page(file) and not is_joined_ogg(file)
    ):
        return FfmpegFile(file, name)
    if tag_bytes:  # it confuses both libraries
        file.close()
        file = _without_tag(path, tag_bytes)
    goes_on = signature.startswith(b"RIFF") and data_goes_on(file)
    promised_frames = nist_samples(file) if signature.startswith(b"NIST") else None
    file.seek(0)
    source = file if tag_bytes or parse_slice(path) else Path(path)
    try:
        decoder = SndFile(source, name, goes_on=goes_on, promised_frames=promised_frames)
    except (soundfile.LibsndfileError, TypeError):  # TypeError: a headerless .raw file
        return FfmpegFile(file, name)
    # MPEG in WAV makes libsndfile print warnings, and other codecs for telephones cannot be sought.
    if decoder.has_length and decoder.file.seekable() and not decoder.file.subtype.startswith("MPEG"):
        if source is not file:
            file.close()
        return decoder
    has_length = decoder.has_length
    if source is not file:
        decoder.close()
    return FfmpegFile(file, name, ignore_length=not has_length)


def _bytes_of(path: str | Path) -> BinaryIO:
    part = parse_slice(path)
    return part.open() if part else Path(path).open("rb")


def _without_tag(path: str | Path, tag_bytes: int) -> BinaryIO:
    """The file without the tag at its beginning."""
    part = parse_slice(path) or Slice(Path(path), 0, Path(path).stat().st_size)
    return Slice(part.file, part.offset + tag_bytes, part.size - tag_bytes).open()
