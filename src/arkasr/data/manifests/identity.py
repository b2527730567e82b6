"""Detects changes of a set of utterances, by checksums of each aspect: ids, texts, languages, audio and others.

A change in a single utterance, or in the order, is found. Audio files are compared by size and modification time.
Storing identities is left to others.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

from arkasr.data.manifests.indexed import IndexedUtterances
from arkasr.data.manifests.manifest import Utterance
from arkasr.data.manifests.utterances import Utterances
from arkasr.data.slices import containing_file

BLOCKS = 1_024  # largest number of checksums per aspect; each covers a block of consecutive utterances
FULL_CHECK_LIMIT = 131_072  # utterances; in larger sets, only a sample of the audio files is checked
DIGITS = 8  # hexadecimal digits of a checksum

# Aspects of an utterance after the recipe's filters, in the order of comparison.
ASPECTS: dict[str, Callable[[Utterance], Any]] = {
    "id": lambda item: item.id,
    "text": lambda item: item.text,
    "language": lambda item: item.language,
    "speaker": lambda item: item.speaker,
    "duration": lambda item: item.duration,
    "audio": lambda item: (item.fields.get("audio"), item.begin_time, item.end_time),
}
CHANGED = {
    "id": "another utterance replaces {}",
    "text": "the text of {} has changed",
    "language": "the language of {} has changed",
    "speaker": "the speaker of {} has changed",
    "duration": "the `duration` of {} has changed",
    "audio": "`audio` or the times of {} have changed",
    "lines": "the line of {} has changed",
    "size": "the audio file of {} has another size or is gone",
    "time": "the audio file of {} was written at another time",
}

Identity = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """The first difference found.

    Attributes:
        what: the difference, as part of an error message.
        only_time: only the modification time of a file differs, as after a copy.
        remedy: what the user can do, for the same message.
    """

    what: str
    only_time: bool = False
    remedy: str = "restore it"


def identity_of(utterances: Utterances, *, by_lines: bool, times: bool) -> Identity:
    """Checksums of a set, as JSON values.

    Args:
        utterances: of the set, in order.
        by_lines: for an indexed set above `FULL_CHECK_LIMIT`, use the index's checksums of whole lines.
        times: include the modification times of audio files.
    """
    identity: Identity = {"utterances": len(utterances)}
    if by_lines and isinstance(utterances, IndexedUtterances) and len(utterances) > FULL_CHECK_LIMIT:
        identity["order"] = utterances.order_checksum()
        identity["lines"] = _hex(map(crc32, utterances.checksums(blocks(len(utterances)))))
    else:
        identity |= _content_checksums(utterances)
    return identity | _file_checksums(utterances, times)


def difference(was: Identity, now: Identity, utterances: Utterances) -> Difference | None:
    """The first aspect in which a set has changed; None if it has not.

    Args:
        was: the recorded identity.
        now: the identity of `utterances`.
        utterances: the set now; the message names its ids.
    """
    if was["utterances"] != now["utterances"]:
        return Difference(f"it has {now['utterances']} utterances and had {was['utterances']}")
    if ("lines" in was) != ("lines" in now):
        return Difference("the manifest has another size")
    if was.get("order") != now.get("order"):
        return Difference("its utterances are in another order")
    for aspect in CHANGED:
        if aspect not in was or aspect not in now or was[aspect] == now[aspect]:
            continue
        checked = sample(len(utterances)) if aspect in ("size", "time") else range(len(utterances))
        block = _first_changed_block(was[aspect], now[aspect], len(checked))
        indices = checked[block.start : block.stop]
        names = _number_range(block) if aspect == "lines" else _name_range(utterances, indices)
        return Difference(CHANGED[aspect].format(names), only_time=aspect == "time")
    return None


def blocks(count: int) -> list[range]:
    """The indices below `count`, in at most `BLOCKS` blocks."""
    size = max(-(-count // BLOCKS), 1)
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def sample(count: int) -> Sequence[int]:
    """Indices of utterances whose files are checked: all, or `FULL_CHECK_LIMIT` of them, evenly spaced."""
    if count <= FULL_CHECK_LIMIT:
        return range(count)
    return [number * count // FULL_CHECK_LIMIT for number in range(FULL_CHECK_LIMIT)]


def size_and_time(path: Path) -> tuple[int, int] | None:
    """Bytes of a file, and its modification time in whole seconds, as copies keep it; None if the file is missing."""
    with suppress(OSError):
        stat = path.stat()
        return stat.st_size, int(stat.st_mtime)
    return None


def _content_checksums(utterances: Utterances) -> Identity:
    checksums: dict[str, list[int]] = {aspect: [] for aspect in ASPECTS}
    for block in blocks(len(utterances)):
        items = utterances[block.start : block.stop]
        for aspect, value in ASPECTS.items():
            checksums[aspect].append(_checksum(map(value, items)))
    return {aspect: _hex(values) for aspect, values in checksums.items()}


def _file_checksums(utterances: Utterances, times: bool) -> Identity:
    checked = sample(len(utterances))
    stat_of = cache(size_and_time)  # a tar holds many utterances
    size_checksums, time_checksums = [], []
    for block in blocks(len(checked)):
        files = [containing_file(utterances[index].audio) for index in checked[block.start : block.stop]]
        stats = [stat_of(file) for file in files]
        size_checksums.append(_checksum(stat and stat[0] for stat in stats))
        time_checksums.append(_checksum(stat and stat[1] for stat in stats))
    return {"size": _hex(size_checksums)} | ({"time": _hex(time_checksums)} if times else {})


def _checksum(values: Iterable[Any]) -> int:
    return crc32("\n".join(map(repr, values)).encode())


def _hex(checksums: Iterable[int]) -> str:
    return "".join(f"{checksum:0{DIGITS}x}" for checksum in checksums)


def _first_changed_block(was: str, now: str, count: int) -> range:
    for number, block in enumerate(blocks(count)):
        first = number * DIGITS
        if was[first : first + DIGITS] != now[first : first + DIGITS]:
            return block
    return range(count)


def _name_range(utterances: Utterances, indices: Sequence[int]) -> str:
    first, last = utterances[indices[0]], utterances[indices[-1]]
    return f"{first.id!r}" if len(indices) == 1 else f"one of the {len(indices)} from {first.id!r} to {last.id!r}"


def _number_range(block: range) -> str:
    return f"one of the utterances {block.start + 1} to {block.stop} in the order of the manifest"
