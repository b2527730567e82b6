"""What devices have to tell each other in a step, and how long the slowest link takes for it."""

import math

from arkasr.cost.device import Device

FLOAT = 4
BUCKET_BYTES = 25 * 2**20  # of gradients that DDP sends at a time


def link_bytes_per_second(device: Device, devices: int) -> float:
    """Bytes a second that go round a ring of devices; between nodes all of a node's links work on it together."""
    if devices <= device.per_node:
        return device.link_in_node * device.shares.links
    return min(device.link_in_node, device.link_between_nodes * device.per_node) * device.shares.links


def all_reduce_seconds(parameters: int, device: Device, devices: int) -> float:
    """Gradients in float32, once a step (DDP)."""
    if devices == 1:
        return 0.0
    sent = 2 * FLOAT * parameters * (devices - 1) / devices
    messages = math.ceil(FLOAT * parameters / BUCKET_BYTES)
    return sent / link_bytes_per_second(device, devices) + 2 * messages * _latency(device, devices)


def sharded_seconds(
    parameters: int, layers: int, device: Device, devices: int, *, gathers: int, number_bytes: int
) -> float:
    """Weights gathered `gathers` times and gradients in float32 scattered once, in a micro-batch (FSDP2)."""
    if devices == 1:
        return 0.0
    sent = (gathers * number_bytes + FLOAT) * parameters * (devices - 1) / devices
    messages = (gathers + 1) * (layers + 1)
    return sent / link_bytes_per_second(device, devices) + messages * _latency(device, devices)


def _latency(device: Device, devices: int) -> float:
    """Seconds of one message through a tree of devices."""
    return math.ceil(math.log2(devices)) * device.hop_seconds
