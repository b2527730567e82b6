import pytest

from arkasr.cost.device import DEVICES
from arkasr.cost.links import all_reduce_seconds, sharded_seconds

H100 = DEVICES["h100"].model_copy(update={"hop_seconds": 0.0})
WEIGHTS = 1_000_000_000


def test_one_device_sends_nothing():
    assert all_reduce_seconds(WEIGHTS, H100, 1) == 0
    assert sharded_seconds(WEIGHTS, WEIGHTS, 50, H100, 1, gathers=3, number_bytes=2) == 0


def test_a_ring_all_reduce_sends_almost_two_copies_of_the_gradients():
    """Each of 8 devices sends 7 of 8 parts to be summed, then 7 of 8 sums, in float32."""
    seconds = all_reduce_seconds(WEIGHTS, H100, 8)
    assert seconds * H100.link_in_node * H100.shares.links == pytest.approx(2 * 7 / 8 * 4 * WEIGHTS)


def test_fsdp2_sends_more_in_each_micro_batch_than_ddp_in_a_step():
    ddp = all_reduce_seconds(WEIGHTS, H100, 24)
    fsdp2 = sharded_seconds(WEIGHTS, WEIGHTS, 50, H100, 24, gathers=3, number_bytes=2)
    assert fsdp2 / ddp == pytest.approx((3 * 2 + 4) / (2 * 4))


def test_links_between_nodes_and_latency_slow_an_all_reduce_down():
    assert all_reduce_seconds(WEIGHTS, H100, 16) > all_reduce_seconds(WEIGHTS, H100, 8)
    with_latency = H100.model_copy(update={"hop_seconds": 1e-5})
    seconds = [all_reduce_seconds(WEIGHTS, with_latency, devices) for devices in (16, 128, 1024)]
    assert seconds == sorted(seconds)
    assert seconds[-1] > all_reduce_seconds(WEIGHTS, H100, 1024)
