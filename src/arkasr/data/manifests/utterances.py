"""The utterances of a set as a sequence that can be filtered and shuffled, and its implementation in memory.

Every implementation gives the same utterances in the same order for the same operations.
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
    """Utterances with their durations.

    Attributes:
        utterances: those with a known duration.
        seconds: duration of each; a slice may be float64 `[n]`.
        unmeasured: id of every other utterance, and why its audio cannot be measured.
    """

    utterances: "Utterances"
    seconds: Sequence[float]
    unmeasured: list[tuple[str, str]]


class Utterances(Sequence[Utterance]):
    """An ordered set of utterances; every operation returns a new one."""

    @abstractmethod
    def in_language(self, language: str) -> "Utterances":
        """Utterances in a language, given by its canonical name."""

    @abstractmethod
    def up_to(self, seconds: float) -> "Utterances":
        """Utterances of at most `seconds`. Utterances that cannot be measured stay: reading them reports the error."""

    @abstractmethod
    def shuffled(self, seed: int) -> "Utterances":
        """All utterances in an order that depends only on the seed and their number."""

    @abstractmethod
    def first(self, count: int) -> "Utterances":
        """The first `count` utterances."""

    @abstractmethod
    def without_labels(self) -> "Utterances":
        """All utterances without their text, also in `fields`."""

    @abstractmethod
    def measured(self) -> "Measured":
        """Utterances with their durations, measured if the manifest does not give them."""

    @abstractmethod
    def languages(self) -> set[str | None]:
        """All languages; includes None if an utterance has no language."""

    @abstractmethod
    def unlabelled(self) -> int | None:
        """Index of the first utterance without text; None if all have one."""

    @abstractmethod
    def texts(self) -> Mapping[str, str]:
        """Non-empty texts by utterance id."""

    @abstractmethod
    def values(self, compute: Callable[[Sequence[Utterance]], list[Value]]) -> Sequence[Value]:
        """The values that `compute` returns for all utterances; it may be called with parts of the set."""


class ListedUtterances(Utterances):
    """Utterances in memory."""

    def __init__(self, utterances: list[Utterance]) -> None:
        self._utterances = utterances

    def __len__(self) -> int:
        return len(self._utterances)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...
    @overload
    def __getitem__(self, index: slice) -> list[Utterance]: ...
    def __getitem__(self, index: int | slice) -> Utterance | list[Utterance]:
        return self._utterances[index]

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self._utterances)

    def in_language(self, language: str) -> "ListedUtterances":
        return ListedUtterances([item for item in self if item.language == language])

    def up_to(self, seconds: float) -> "ListedUtterances":
        return ListedUtterances([item for item in self if _is_at_most(item, seconds)])

    def shuffled(self, seed: int) -> "ListedUtterances":
        utterances = list(self)
        random.Random(seed).shuffle(utterances)
        return ListedUtterances(utterances)

    def first(self, count: int) -> "ListedUtterances":
        return ListedUtterances(self._utterances[:count])

    def without_labels(self) -> "ListedUtterances":
        return ListedUtterances([withhold_label(item) for item in self])

    def measured(self) -> Measured:
        measured, seconds, unmeasured = [], [], []
        for item in self:
            try:
                seconds.append(seconds_of(item))
                measured.append(item)
            except InputError as error:
                unmeasured.append((item.id, str(error)))
        return Measured(ListedUtterances(measured), seconds, unmeasured)

    def languages(self) -> set[str | None]:
        return {item.language for item in self}

    def unlabelled(self) -> int | None:
        return next((index for index, item in enumerate(self) if item.text is None), None)

    def texts(self) -> dict[str, str]:
        return {item.id: item.text for item in self if item.text}

    def values(self, compute: Callable[[Sequence[Utterance]], list[Value]]) -> list[Value]:
        return compute(self)


def withhold_label(utterance: Utterance) -> Utterance:
    """The utterance without its text, also in `fields`."""
    fields = {name: value for name, value in utterance.fields.items() if name != "text"}
    return replace(utterance, text=None, fields=fields)


def _is_at_most(utterance: Utterance, seconds: float) -> bool:
    try:
        return seconds_of(utterance) <= seconds
    except InputError:
        return True
