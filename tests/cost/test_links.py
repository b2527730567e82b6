import pytest

from arkasr.cost.device import DEVICES
from arkasr.cost.links import all_reduce_seconds, sharded_seconds

H100 = DEVICES["h100"].model_copy(update={"hop_seconds": 0.0})
WEIGHTS = 1_000_000_000


def test_one_device_has_nobody_to_talk_to():
    assert all_reduce_seconds(WEIGHTS, H100, 1) == 0
    assert sharded_seconds(WEIGHTS, 50, H100, 1, gathers=3, number_bytes=2) == 0


def test_a_ring_sends_every_gradient_twice_less_the_own_part():
    """Each of 8 devices passes on 7 of 8 parts to sum them up, and 7 of 8 sums: 4 bytes a number."""
    seconds = all_reduce_seconds(WEIGHTS, H100, 8)
    assert seconds * H100.link_in_node * H100.shares.links == pytest.approx(2 * 7 / 8 * 4 * WEIGHTS)


def test_shares_send_more_in_every_micro_batch_than_copies_in_a_step():
    copies = all_reduce_seconds(WEIGHTS, H100, 24)
    shares = sharded_seconds(WEIGHTS, 50, H100, 24, gathers=3, number_bytes=2)
    assert shares / copies == pytest.approx((3 * 2 + 4) / (2 * 4))


def test_between_nodes_it_is_slower_and_many_messages_take_their_time():
    assert all_reduce_seconds(WEIGHTS, H100, 16) > all_reduce_seconds(WEIGHTS, H100, 8)
    slow = H100.model_copy(update={"hop_seconds": 1e-5})
    late = [all_reduce_seconds(WEIGHTS, slow, devices) for devices in (16, 128, 1024)]
    assert late == sorted(late)
    assert late[-1] > all_reduce_seconds(WEIGHTS, H100, 1024)
