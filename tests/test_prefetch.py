import threading
import time

import pytest

from arkasr.prefetch import prefetch

DEPTH = 2


def test_results_are_in_order_from_another_thread_and_at_most_depth_ahead():
    started, threads = [], set()

    def work(item):
        started.append(item)
        threads.add(threading.current_thread())
        return item * item

    results = []
    for result in prefetch(work, range(12), DEPTH):
        time.sleep(0.01)
        results.append(result)
        assert len(started) <= len(results) + DEPTH + 1
    assert results == [item * item for item in range(12)]
    assert threading.current_thread() not in threads
    assert list(prefetch(work, [], DEPTH)) == []


def test_an_error_in_the_thread_is_raised_for_the_consumer():
    with pytest.raises(ZeroDivisionError):
        list(prefetch(lambda item: 1 // item, [1, 0, 1], DEPTH))


def test_closing_early_cancels_the_remaining_items():
    started = []

    def work(item):
        started.append(item)
        time.sleep(0.02)

    results = prefetch(work, range(100), DEPTH)
    next(results)
    results.close()
    assert len(started) <= DEPTH + 2
