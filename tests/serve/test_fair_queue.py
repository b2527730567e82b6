from arkasr.serve.fair_queue import FairQueue


def anything(item: str) -> bool:
    return True


def test_owners_take_turns() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "a4", "b1", "c1", "c2"):
        queue.put(item[0], item)
    assert len(queue) == 7
    assert [queue.take(anything) for _ in range(8)] == ["a1", "b1", "c1", "a2", "c2", "a3", "a4", None]


def test_an_item_without_room_keeps_its_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.put("a", "a large one")
    queue.put("b", "small")
    assert queue.take(lambda item: len(item) < 6) is None
    assert queue.take(anything) == "a large one"
    assert queue.take(lambda item: len(item) < 6) == "small"
    assert len(queue) == 0
