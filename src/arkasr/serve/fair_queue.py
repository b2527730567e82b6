"""A queue in which every owner gets its turn, however much the others have put in."""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """First in, first out for each owner; the owners take turns, one item each."""

    def __init__(self) -> None:
        self._items: OrderedDict[Hashable, deque[Item]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._items.values()))

    def put(self, owner: Hashable, item: Item) -> None:
        """Append an item; a new owner's turn comes after those of the others."""
        self._items.setdefault(owner, deque()).append(item)

    def take(self, fits: Callable[[Item], bool]) -> Item | None:
        """The first item of the owner whose turn it is; None if there is none, or if it does not fit.

        An item that does not fit keeps its turn, so that smaller ones never overtake it for ever.
        """
        if not self._items:
            return None
        owner, items = next(iter(self._items.items()))
        if not fits(items[0]):
            return None
        item = items.popleft()
        self._items.move_to_end(owner)
        if not items:
            del self._items[owner]
        return item
