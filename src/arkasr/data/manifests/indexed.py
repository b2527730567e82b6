"""The utterances of an indexed manifest, whose lines are read from the disk when they are used."""

import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload
from zlib import crc32

import numpy as np

from arkasr.data.manifests.durations import seconds_of
from arkasr.data.manifests.index import ManifestIndex
from arkasr.data.manifests.manifest import Utterance
from arkasr.data.manifests.utterances import Measured, Utterances, Value, withhold_label
from arkasr.errors import InputError

RECORDS_PER_SCAN = 2**18  # records that a scan reads at once


class IndexedUtterances(Utterances):
    """Utterances on the disk. Memory holds the numbers of their lines, 4 bytes each.

    If the set is the whole manifest, in its order, no numbers are held.

    Args:
        index: of the manifest.
        lines: numbers of the lines, in order; None = all lines of the manifest.
        labels_withheld: remove the text of each utterance.
    """

    def __init__(self, index: ManifestIndex, lines: np.ndarray | None = None, *, labels_withheld: bool = False) -> None:
        self._index = index
        self._lines = lines
        self._labels_withheld = labels_withheld

    def __len__(self) -> int:
        return len(self._index) if self._lines is None else len(self._lines)

    @overload
    def __getitem__(self, place: int) -> Utterance: ...
    @overload
    def __getitem__(self, place: slice) -> list[Utterance]: ...
    def __getitem__(self, place: int | slice) -> Utterance | list[Utterance]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        number = range(len(self))[place]
        utterance = self._index.utterance(number if self._lines is None else int(self._lines[number]))
        return withhold_label(utterance) if self._labels_withheld else utterance

    def in_language(self, language: str) -> "IndexedUtterances":
        languages = self._index.languages
        code = languages.index(language) if language in languages else len(languages)
        return self._where(lambda records: records["language"] == code)

    def up_to(self, seconds: float) -> "IndexedUtterances":
        return self._where(lambda records: ~(records["seconds"] > seconds))

    def shuffled(self, seed: int) -> "IndexedUtterances":
        order = array(_typecode(len(self)), range(len(self)))
        random.Random(seed).shuffle(order)
        places = np.frombuffer(order, dtype=order.typecode)
        return self._with(places if self._lines is None else self._lines[places])

    def first(self, count: int) -> "IndexedUtterances":
        return self._with(self._numbers(0, min(count, len(self))).copy())

    def without_labels(self) -> "IndexedUtterances":
        return IndexedUtterances(self._index, self._lines, labels_withheld=True)

    def measured(self) -> Measured:
        if not self._index.unmeasured:
            return Measured(self, SecondsOfLines(self), [])
        found = self._where(lambda records: ~np.isnan(records["seconds"]))
        others = self._where(lambda records: np.isnan(records["seconds"]))
        return Measured(found, SecondsOfLines(found), [(item.id, _why_unmeasured(item)) for item in others])

    def languages(self) -> set[str | None]:
        if self._lines is None:
            return set(self._index.languages)
        found: set[int] = set()
        for _, records in self._chunks():
            found.update(np.unique(records["language"]).tolist())
        return {self._index.languages[code] for code in found}

    def unlabelled(self) -> int | None:
        if self._labels_withheld:
            return 0
        if self._index.labelled:
            return None
        for first, records in self._chunks():
            without = np.flatnonzero(~records["labelled"])
            if len(without):
                return first + int(without[0])
        return None

    def texts(self) -> Mapping[str, str]:
        return {} if self._labels_withheld else TextsOfLines(self, self._index, self._lines)

    def values(self, compute: Callable[[Sequence[Utterance]], list[Value]]) -> "ValuesOfLines[Value]":
        return ValuesOfLines(self, compute)

    def records(self, first: int, last: int) -> np.ndarray:
        """`RECORD` `[last - first]` of the utterances from `first` to before `last`."""
        if self._lines is None:
            return self._index.records(first, last)
        return self._index.records_of(self._lines[first:last])

    def checksums(self, parts: Iterable[range]) -> Iterator[bytes]:
        """Checksums of the set's lines, sorted by their place in the manifest; 4 bytes per line.

        Args:
            parts: ranges of places in this sorted order; one result each.
        """
        lines = self._lines
        if lines is not None and self.order_checksum():
            lines = np.sort(lines)
        for part in parts:
            if lines is None:
                records = self._index.records(part.start, part.stop)
            else:
                records = self._index.records_of(lines[part.start : part.stop])
            yield records["crc32"].tobytes()

    def order_checksum(self) -> int:
        """A checksum of the order of the lines; 0 if it is the order of the manifest."""
        lines = self._lines
        if lines is None:
            return 0
        pieces = (
            lines[first : first + RECORDS_PER_SCAN + 1].astype(np.int64)
            for first in range(0, len(lines), RECORDS_PER_SCAN)
        )
        return 0 if all((np.diff(piece) > 0).all() for piece in pieces) else crc32(lines.tobytes())

    def _chunks(self) -> Iterator[tuple[int, np.ndarray]]:
        for first in range(0, len(self), RECORDS_PER_SCAN):
            yield first, self.records(first, min(first + RECORDS_PER_SCAN, len(self)))

    def _numbers(self, first: int, last: int) -> np.ndarray:
        if self._lines is None:
            return np.arange(first, last, dtype=_typecode(len(self._index)))
        return self._lines[first:last]

    def _where(self, condition: Callable[[np.ndarray], np.ndarray]) -> "IndexedUtterances":
        if all(condition(records).all() for _, records in self._chunks()):
            return self
        kept = [self._numbers(first, first + len(records))[condition(records)] for first, records in self._chunks()]
        return self._with(np.concatenate(kept))

    def _with(self, lines: np.ndarray) -> "IndexedUtterances":
        return IndexedUtterances(self._index, lines, labels_withheld=self._labels_withheld)


class SecondsOfLines(Sequence[float]):
    """Seconds of every utterance, read from the index."""

    def __init__(self, utterances: IndexedUtterances) -> None:
        self._utterances = utterances

    def __len__(self) -> int:
        return len(self._utterances)

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            first, last, step = place.indices(len(self))
            return self._utterances.records(first, max(first, last))["seconds"][::step]
        number = range(len(self))[place]
        return float(self._utterances.records(number, number + 1)["seconds"][0])


class ValuesOfLines(Sequence[Value]):
    """A value of every utterance, computed from its line at each access."""

    def __init__(self, utterances: IndexedUtterances, compute: Callable[[Sequence[Utterance]], list[Value]]) -> None:
        self._utterances = utterances
        self._compute = compute

    def __len__(self) -> int:
        return len(self._utterances)

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return self._compute(self._utterances[place])
        return self._compute([self._utterances[place]])[0]


class TextsOfLines(Mapping[str, str]):
    """Text by id, found by the index and read from its line at each access.

    Args:
        utterances: the utterances with these texts.
        index: of their manifest.
        lines: numbers of their lines; None = all lines of the manifest.
    """

    def __init__(self, utterances: IndexedUtterances, index: ManifestIndex, lines: np.ndarray | None) -> None:
        self._utterances = utterances
        self._index = index
        self._lines = None if lines is None else np.sort(lines)

    def __getitem__(self, name: str) -> str:
        line = self._index.find(name)
        text = self._index.utterance(line).text if line is not None and self._includes(line) else None
        if not text:
            raise KeyError(name)
        return text

    def __iter__(self) -> Iterator[str]:
        return (item.id for item in self._utterances if item.text)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _includes(self, line: int) -> bool:
        if self._lines is None:
            return True
        place = int(np.searchsorted(self._lines, line))
        return place < len(self._lines) and int(self._lines[place]) == line


def _why_unmeasured(utterance: Utterance) -> str:
    try:
        seconds_of(utterance)
    except InputError as error:
        return str(error)
    return (
        f"{utterance.audio}: could not be read when the manifest was indexed, but can be read now; "
        "run `arkasr data index` on the manifest"
    )


def _typecode(count: int) -> str:
    """The array type of whole numbers below `count`: unsigned, 4 bytes if they suffice."""
    return "I" if count < 2**32 else "Q"
