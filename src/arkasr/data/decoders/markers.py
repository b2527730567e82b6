"""Marks in files for what libraries do not tell: where a recording ends, and whether it is complete."""

import os
import re
from typing import BinaryIO

HEADER_BYTES = 2**12
LARGEST_OGG_PAGE = 2**16
BLOCK_BYTES = 2**20
# Flags, of which the last bit says that the number of frames follows.
XING_FRAME = re.compile(rb"(?:Xing|Info)\0\0\0[\x01\x03\x05\x07\x09\x0b\x0d\x0f](.{4})", re.DOTALL)
NIST_SAMPLES = re.compile(rb"sample_count -i (\d+)")
MOST_CHUNKS = 100
LARGEST_CHUNK = 0x7FFF_0000  # more is what programs write that do not know the size
OGG_PAGE = b"OggS\0"
OGG_HEADER_BYTES = 27  # before the segment table
FIRST_PAGE, LAST_PAGE = 2, 4  # flags of an Ogg page


def id3_bytes(file: BinaryIO) -> int:
    """Length of the ID3v2 tag at the beginning of a file; 0 = it has none."""
    file.seek(0)
    head = file.read(10)
    if len(head) < 10 or not head.startswith(b"ID3"):
        return 0
    size = sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    return len(head) + size


def mpeg_frames(file: BinaryIO) -> int | None:
    """Number of frames of an MP3 file as its Xing or Info frame has it; None without such a frame."""
    file.seek(id3_bytes(file))
    found = XING_FRAME.search(file.read(HEADER_BYTES))
    return int.from_bytes(found[1], "big") if found else None


def has_last_page(file: BinaryIO) -> bool:
    """Whether an Ogg file ends with a page that is marked as the last one of its stream."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - LARGEST_OGG_PAGE, 0))
    tail = file.read(LARGEST_OGG_PAGE)
    page = tail[tail.rfind(OGG_PAGE) :]
    if len(page) < OGG_HEADER_BYTES or not page[len(OGG_PAGE)] & LAST_PAGE:
        return False
    segments = page[OGG_HEADER_BYTES - 1]
    return len(page) >= OGG_HEADER_BYTES + segments + sum(page[OGG_HEADER_BYTES : OGG_HEADER_BYTES + segments])


def is_joined_ogg(file: BinaryIO) -> bool:
    """Whether another stream of an Ogg file begins after the first pages. FFmpeg then does not seek beyond it."""
    first_page = OGG_PAGE + bytes([FIRST_PAGE])
    place = 0
    while True:
        file.seek(place)
        page = file.read(OGG_HEADER_BYTES + 255)
        if not page.startswith(first_page) or len(page) < OGG_HEADER_BYTES:
            break
        segments = page[OGG_HEADER_BYTES - 1]
        place += OGG_HEADER_BYTES + segments + sum(page[OGG_HEADER_BYTES : OGG_HEADER_BYTES + segments])
    file.seek(place)
    end_of_block = b""
    while block := file.read(BLOCK_BYTES):
        if first_page in end_of_block + block:
            return True
        end_of_block = block[-len(first_page) :]
    return False


def data_goes_on(file: BinaryIO) -> bool:
    """Whether a WAV file has more samples than its data chunk says: it was never finished, or has 4 GiB or more."""
    file.seek(12)
    for _ in range(MOST_CHUNKS):
        header = file.read(8)
        size = int.from_bytes(header[4:], "little")
        if len(header) < 8 or size > LARGEST_CHUNK:
            return False
        file.seek(size + size % 2, os.SEEK_CUR)
        if header.startswith(b"data"):
            following = file.read(8)
            is_chunk = following[:4].isascii() and following[:4].decode("ascii").isprintable()
            return len(following) == 8 and not is_chunk
    return False


def nist_samples(file: BinaryIO) -> int | None:
    """Number of samples of a NIST SPHERE file, as its header has it; None if it has none."""
    file.seek(0)
    found = NIST_SAMPLES.search(file.read(HEADER_BYTES))
    return int(found[1]) if found else None


def is_vorbis(file: BinaryIO) -> bool:
    """Whether the first stream of an Ogg file is Vorbis."""
    file.seek(0)
    return b"\x01vorbis" in file.read(HEADER_BYTES)
