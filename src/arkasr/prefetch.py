"""Work done ahead of its use, in a thread of its own, in the order in which it is used."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(work: Callable[[Item], Result], items: Iterable[Item], most: int) -> Iterator[Result]:
    """What `work` makes of every item, in order, computed up to `most` items ahead of what has been taken."""
    left = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        try:
            waiting = deque(pool.submit(work, item) for item in islice(left, most + 1))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(work, item) for item in islice(left, 1))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
