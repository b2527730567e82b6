"""Compute items ahead of their use, in order, in one background thread."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(work: Callable[[Item], Result], items: Iterable[Item], depth: int) -> Iterator[Result]:
    """Yield `work(item)` for every item, in order, computed up to `depth` items ahead of the consumer."""
    remaining = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        try:
            pending = deque(pool.submit(work, item) for item in islice(remaining, depth + 1))
            while pending:
                yield pending.popleft().result()
                pending.extend(pool.submit(work, item) for item in islice(remaining, 1))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
