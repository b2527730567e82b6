"""Which decoder reads a file: libsndfile where it is exact, else FFmpeg's libraries."""

from pathlib import Path
from typing import BinaryIO

import soundfile

from arkasr.data.decoders.decoder import Decoder
from arkasr.data.decoders.ffmpeg import FfmpegFile
from arkasr.data.decoders.markers import has_last_page, id3_bytes, is_joined_ogg, is_vorbis
from arkasr.data.decoders.sndfile import SIGNATURES, SndFile
from arkasr.data.slices import Slice, containing_file, parse_slice
from arkasr.errors import InputError


def open_decoder(path: str | Path) -> Decoder:
    """Open an audio file, or one in a tar.

    Raises:
        InputError: it does not exist, is cut off, or neither library can read it.
    """
    file = _open(path)
    try:
        return _decoder(file, path)
    except BaseException:
        file.close()
        raise


def _decoder(file: BinaryIO, path: str | Path) -> Decoder:
    name = str(path)
    # Tags before other formats than MP3 confuse both libraries.
    tag = id3_bytes(file)
    file.seek(tag)
    signature = file.read(8)
    is_pcm = signature.startswith(SIGNATURES)
    if is_pcm or (
        signature.startswith(b"OggS") and is_vorbis(file) and has_last_page(file) and not is_joined_ogg(file)
    ):
        try:
            decoder = SndFile(_without_tag(path, tag), name)
        except (soundfile.LibsndfileError, TypeError):  # TypeError: a headerless .raw file
            return FfmpegFile(file, name)
        if decoder.has_length:
            file.close()
            return decoder
        decoder.close()
        return FfmpegFile(file, name, ignore_length=True)
    return FfmpegFile(file, name)


def _open(path: str | Path) -> BinaryIO:
    """The bytes of a file or slice."""
    if not containing_file(Path(path)).is_file():
        raise InputError(f"{path}: no such audio file; correct the path")
    part = parse_slice(path)
    try:
        return part.open() if part else Path(path).open("rb")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; correct the path or its permissions") from error


def _without_tag(path: str | Path, tag_bytes: int) -> Path | BinaryIO:
    """The file without the tag at its beginning."""
    part = parse_slice(path)
    if part is None and not tag_bytes:
        return Path(path)
    part = part or Slice(Path(path), 0, Path(path).stat().st_size)
    return Slice(part.file, part.offset + tag_bytes, part.size - tag_bytes).open()
