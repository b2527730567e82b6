"""The utterances of a set as a sequence that can be narrowed down, and the plainest one: a list in memory.

Every other kind gives the same utterances, in the same order, for the same narrowing.
"""

import random
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar, overload

from arkasr.data.manifests.durations import seconds_of
from arkasr.data.manifests.manifest import Utterance
from arkasr.errors import InputError

Value = TypeVar("Value")


class Measured(NamedTuple):
    """Utterances and their lengths.

    Attributes:
        utterances: whose length is known.
        seconds: of each; a slice of it may be float64 `[n]`.
        others: id of every other one, and why its audio cannot be measured.
    """

    utterances: "Utterances"
    seconds: Sequence[float]
    others: list[tuple[str, str]]


class Utterances(Sequence[Utterance]):
    """Utterances in order."""

    @abstractmethod
    def in_language(self, language: str) -> "Utterances":
        """Those in a language, by its canonical name."""

    @abstractmethod
    def up_to(self, seconds: float) -> "Utterances":
        """Those that are not longer; one that cannot be measured is left to who hears it, and says so."""

    @abstractmethod
    def shuffled(self, seed: int) -> "Utterances":
        """All in another order, which the seed and their number decide."""

    @abstractmethod
    def first(self, count: int) -> "Utterances":
        """The first so many."""

    @abstractmethod
    def without_labels(self) -> "Utterances":
        """The same audio without text, in the fields that pass through as well."""

    @abstractmethod
    def measured(self) -> "Measured":
        """Those whose length is known or can be measured, their lengths, and the others."""

    @abstractmethod
    def languages(self) -> set[str | None]:
        """All that occur; None if some utterance says none."""

    @abstractmethod
    def unlabelled(self) -> int | None:
        """Place of the first without text; None if all have one."""

    @abstractmethod
    def texts(self) -> Mapping[str, str]:
        """The text of every utterance that has one, by its id."""

    @abstractmethod
    def values(self, of: Callable[[Sequence[Utterance]], list[Value]]) -> Sequence[Value]:
        """A value of every utterance, from a function that gives those of several at once."""


class ListedUtterances(Utterances):
    """Utterances in memory."""

    def __init__(self, utterances: list[Utterance]) -> None:
        self._utterances = utterances

    def __len__(self) -> int:
        return len(self._utterances)

    @overload
    def __getitem__(self, place: int) -> Utterance: ...
    @overload
    def __getitem__(self, place: slice) -> list[Utterance]: ...
    def __getitem__(self, place: int | slice) -> Utterance | list[Utterance]:
        return self._utterances[place]

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self._utterances)

    def in_language(self, language: str) -> "ListedUtterances":
        return ListedUtterances([item for item in self if item.language == language])

    def up_to(self, seconds: float) -> "ListedUtterances":
        return ListedUtterances([item for item in self if _may_be_heard(item, seconds)])

    def shuffled(self, seed: int) -> "ListedUtterances":
        utterances = list(self)
        random.Random(seed).shuffle(utterances)
        return ListedUtterances(utterances)

    def first(self, count: int) -> "ListedUtterances":
        return ListedUtterances(self._utterances[:count])

    def without_labels(self) -> "ListedUtterances":
        return ListedUtterances([withhold_label(item) for item in self])

    def measured(self) -> Measured:
        found, seconds, others = [], [], []
        for item in self:
            try:
                seconds.append(seconds_of(item))
                found.append(item)
            except InputError as error:
                others.append((item.id, str(error)))
        return Measured(ListedUtterances(found), seconds, others)

    def languages(self) -> set[str | None]:
        return {item.language for item in self}

    def unlabelled(self) -> int | None:
        return next((place for place, item in enumerate(self) if item.text is None), None)

    def texts(self) -> dict[str, str]:
        return {item.id: item.text for item in self if item.text}

    def values(self, of: Callable[[Sequence[Utterance]], list[Value]]) -> list[Value]:
        return of(self)


def withhold_label(utterance: Utterance) -> Utterance:
    """The same audio without its text, in the fields that pass through as well."""
    fields = {name: value for name, value in utterance.fields.items() if name != "text"}
    return replace(utterance, text=None, fields=fields)


def _may_be_heard(utterance: Utterance, longest: float) -> bool:
    try:
        return seconds_of(utterance) <= longest
    except InputError:
        return True
