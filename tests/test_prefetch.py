import threading
import time

import pytest

from arkasr.prefetch import prefetch

MOST = 2


def test_results_come_in_order_from_another_thread_and_not_too_far_ahead():
    begun, threads = [], set()

    def work(item):
        begun.append(item)
        threads.add(threading.current_thread())
        return item * item

    found = []
    for result in prefetch(work, range(12), MOST):
        time.sleep(0.01)
        found.append(result)
        assert len(begun) <= len(found) + MOST + 1
    assert found == [item * item for item in range(12)]
    assert threading.current_thread() not in threads
    assert list(prefetch(work, [], MOST)) == []


def test_what_goes_wrong_there_is_raised_here():
    with pytest.raises(ZeroDivisionError):
        list(prefetch(lambda item: 1 // item, [1, 0, 1], MOST))


def test_leaving_early_leaves_the_rest_undone():
    begun = []

    def work(item):
        begun.append(item)
        time.sleep(0.02)

    results = prefetch(work, range(100), MOST)
    next(results)
    results.close()
    assert len(begun) <= MOST + 2
