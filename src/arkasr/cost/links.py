"""Seconds that devices of a cluster need to exchange gradients (DDP) or weights and gradients (FSDP2)."""

import math

from arkasr.cost.device import Device
from arkasr.cost.sizes import FLOAT_BYTES

BUCKET_BYTES = 25 * 2**20  # gradients that DDP sends in one message


def ring_bytes_per_second(device: Device, devices: int) -> float:
    """Bytes a second around a ring of devices. Between nodes, all network links of a node work together."""
    if devices <= device.per_node:
        return device.link_in_node * device.shares.links
    return min(device.link_in_node, device.link_between_nodes * device.per_node) * device.shares.links


def all_reduce_seconds(trained: int, device: Device, devices: int) -> float:
    """DDP sums the float32 gradients of the trained parameters once per step."""
    if devices == 1:
        return 0.0
    sent = 2 * FLOAT_BYTES * trained * (devices - 1) / devices
    messages = math.ceil(FLOAT_BYTES * trained / BUCKET_BYTES)
    return sent / ring_bytes_per_second(device, devices) + 2 * messages * _latency(device, devices)


def sharded_seconds(
    parameters: int, trained: int, layers: int, device: Device, devices: int, *, gathers: int, number_bytes: int
) -> float:
    """In each micro-batch, FSDP2 gathers the weights `gathers` times and scatters the float32 gradients once.

    Only trained parameters have gradients.
    """
    if devices == 1:
        return 0.0
    sent = (gathers * number_bytes * parameters + FLOAT_BYTES * trained) * (devices - 1) / devices
    messages = (gathers + 1) * (layers + 1)
    return sent / ring_bytes_per_second(device, devices) + messages * _latency(device, devices)


def _latency(device: Device, devices: int) -> float:
    """Seconds of one message through a tree of devices."""
    return math.ceil(math.log2(devices)) * device.hop_seconds
