"""Seconds that one device needs for given work, for an optimizer update and for features that arrive late."""

from arkasr.cost.device import Device, Precision
from arkasr.cost.sizes import Size
from arkasr.cost.work import Work
from arkasr.errors import InputError


def work_seconds(work: Work, device: Device, precision: Precision) -> float:
    """Seconds of one phase.

    A matrix product takes the longer of two times: its arithmetic and the reading of its weights. An accelerator
    launches calls while earlier ones run, so the longer of running and launching counts. On a CPU their sum counts.

    Raises:
        InputError: the device has no figure for the precision.
    """
    if precision not in device.operations:
        raise InputError(
            f"mixed_precision {precision}: device {device.name} has no figure for it; known are "
            f"{', '.join(device.operations)}"
        )
    products = work.operations / (device.operations[precision] * device.shares.products)
    weights = work.weights / (device.bandwidth * device.shares.bandwidth)
    traffic = work.traffic / (device.bandwidth * device.shares.elementwise)
    return _running_and_launching(device, max(products, weights) + traffic, work.layers * device.layer_seconds)


def optimizer_seconds(student: Size, device: Device, *, shards: int) -> float:
    """Seconds to update the trained weights of one of `shards` shards of the student (1 = a full copy)."""
    updated = device.optimizer_bytes * student.trained_parameters / shards
    running = updated / (device.bandwidth * device.shares.bandwidth)
    return _running_and_launching(device, running, device.update_seconds * student.trained_layers)


def feature_wait(features: float, computing: float, workers: int) -> float:
    """Seconds that a micro-batch of `computing` seconds waits for features that take one core `features` seconds.

    With 0 workers the training process computes the features itself.
    """
    return max(features / workers - computing, 0.0) if workers else features


def _running_and_launching(device: Device, running: float, launching: float) -> float:
    return max(running, launching) if device.launches_asynchronously else running + launching
