"""What a set of utterances is, in checksums of each aspect, and in which of them it differs from what it was.

A change of the text, the order or the audio of a single utterance is seen; audio by the size and time of its files.
Knows nothing of where identities are kept.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from arkasr.data.manifests.indexed import IndexedUtterances
from arkasr.data.manifests.manifest import Utterance
from arkasr.data.manifests.utterances import Utterances
from arkasr.data.slices import file_of

BLOCKS = 1_024  # each aspect has at most so many checksums, of as many consecutive utterances each
MOST_LOOKED_AT = 131_072  # files of larger sets are looked at in a sample, and their lines not read anew
DIGITS = 8  # of a checksum

# Of an utterance as the recipe hands it out, in the order in which a difference is looked for.
ASPECTS: dict[str, Callable[[Utterance], Any]] = {
    "id": lambda item: item.id,
    "text": lambda item: item.text,
    "language": lambda item: item.language,
    "speaker": lambda item: item.speaker,
    "duration": lambda item: item.duration,
    "audio": lambda item: (item.fields.get("audio"), item.begin_time, item.end_time),
}
CHANGED = {
    "id": "another utterance stands in the place of {}",
    "text": "the text of {} is another",
    "language": "the language of {} is another",
    "speaker": "the speaker of {} is another",
    "duration": "the `duration` of {} is another",
    "audio": "`audio` or the times of {} are others",
    "lines": "the line of {} is another",
    "size": "the audio file of {} has another size or is gone",
    "time": "the audio file of {} was written at another time",
}

Identity = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """What is not as it was.

    Attributes:
        what: in a few words.
        only_time: whether no more than the time of a file is known to differ, as that of a copy does.
        remedy: what makes it what it was.
    """

    what: str
    only_time: bool = False
    remedy: str = "restore it"


def identity_of(utterances: Utterances, *, by_lines: bool, times: bool) -> Identity:
    """What a set is, JSON-able.

    Args:
        utterances: of the set, in its order.
        by_lines: of a large set, take the checksums that its index has of the lines, whatever stands in them.
        times: whether the times of audio files are a part of it.
    """
    identity: Identity = {"utterances": len(utterances)}
    if by_lines and isinstance(utterances, IndexedUtterances) and len(utterances) > MOST_LOOKED_AT:
        identity["order"] = utterances.order()
        identity["lines"] = _joined(map(crc32, utterances.checksums(blocks(len(utterances)))))
    else:
        identity |= _of_contents(utterances)
    return identity | _of_files(utterances, times)


def difference(was: Identity, now: Identity, utterances: Utterances) -> Difference | None:
    """The first aspect in which a set is not what it was; None if it is the same.

    Args:
        was: recorded.
        now: of `utterances`.
        utterances: name what differs.
    """
    if was["utterances"] != now["utterances"]:
        return Difference(f"it has {now['utterances']} utterances and had {was['utterances']}")
    if ("lines" in was) != ("lines" in now):
        return Difference("the manifest has another size")
    if was.get("order") != now.get("order"):
        return Difference("its utterances stand in another order")
    for aspect in CHANGED:
        if aspect not in was or aspect not in now or was[aspect] == now[aspect]:
            continue
        looked_at = sample(len(utterances)) if aspect in ("size", "time") else range(len(utterances))
        part = _first_unlike(was[aspect], now[aspect], len(looked_at))
        whose = _named(utterances, looked_at[part.start : part.stop]) if aspect != "lines" else _numbered(part)
        return Difference(CHANGED[aspect].format(whose), only_time=aspect == "time")
    return None


def blocks(count: int) -> list[range]:
    """The places of `count` things in at most `BLOCKS` parts."""
    size = max(-(-count // BLOCKS), 1)
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def sample(count: int) -> Sequence[int]:
    """Places of which the files are looked at: all, or as many as can be, evenly spaced."""
    if count <= MOST_LOOKED_AT:
        return range(count)
    return [place * count // MOST_LOOKED_AT for place in range(MOST_LOOKED_AT)]


def size_and_time(path: Path) -> tuple[int, int] | None:
    """Bytes of a file and the second of its last change, which copies that keep times keep; None if it is gone."""
    with suppress(OSError):
        found = path.stat()
        return found.st_size, int(found.st_mtime)
    return None


def _of_contents(utterances: Utterances) -> Identity:
    checksums: dict[str, list[int]] = {aspect: [] for aspect in ASPECTS}
    for part in blocks(len(utterances)):
        items = utterances[part.start : part.stop]
        for aspect, value in ASPECTS.items():
            checksums[aspect].append(_checksum(map(value, items)))
    return {aspect: _joined(found) for aspect, found in checksums.items()}


def _of_files(utterances: Utterances, times: bool) -> Identity:
    looked_at = sample(len(utterances))
    seen: dict[Path, tuple[int, int] | None] = {}  # a tar is looked at once
    sizes, changes = [], []
    for part in blocks(len(looked_at)):
        files = [file_of(utterances[place].audio) for place in looked_at[part.start : part.stop]]
        found = [seen[file] if file in seen else seen.setdefault(file, size_and_time(file)) for file in files]
        sizes.append(_checksum(item and item[0] for item in found))
        changes.append(_checksum(item and item[1] for item in found))
    return {"size": _joined(sizes)} | ({"time": _joined(changes)} if times else {})


def _checksum(values: Iterable[Any]) -> int:
    return crc32("\n".join(map(repr, values)).encode())


def _joined(checksums: Iterable[int]) -> str:
    return "".join(f"{checksum:0{DIGITS}x}" for checksum in checksums)


def _first_unlike(was: str, now: str, count: int) -> range:
    for number, part in enumerate(blocks(count)):
        first = number * DIGITS
        if was[first : first + DIGITS] != now[first : first + DIGITS]:
            return part
    return range(count)


def _named(utterances: Utterances, places: Sequence[int]) -> str:
    first, last = utterances[places[0]], utterances[places[-1]]
    return f"{first.id!r}" if len(places) == 1 else f"one of the {len(places)} from {first.id!r} to {last.id!r}"


def _numbered(part: range) -> str:
    return f"one of the utterances {part.start + 1} to {part.stop} in the order of the manifest"
