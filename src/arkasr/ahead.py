"""Work done ahead of its use, in a thread of its own, in the order in which it is used."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(work: Callable[[Item], Result], items: Sequence[Item], most: int) -> Iterator[Result]:
    """What `work` makes of every item, in order, computed up to `most` items ahead of what has been taken."""
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        try:
            waiting = [pool.submit(work, item) for item in items[: most + 1]]
            for place in range(len(items)):
                yield waiting.pop(0).result()
                if place + most + 1 < len(items):
                    waiting.append(pool.submit(work, items[place + most + 1]))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
