"""Speed and memory of one device, from a short table or from a file.

The ceilings come from data sheets. Programs reach only a share of each ceiling. `shares_measured` says whether these
shares were measured or assumed.
"""

import json
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, ValidationError

from arkasr.errors import InputError, nearest_of
from arkasr.settings import Settings

Precision = Literal["no", "bf16", "fp16"]
# Keys of device files, by field; the other keys are the names of the fields.
FILE_KEYS = {"elementwise": "sweeps", "launches_asynchronously": "launches_ahead", "feature_rate": "hearing"}


class _DeviceSettings(Settings):
    model_config = ConfigDict(alias_generator=lambda name: FILE_KEYS.get(name, name), populate_by_name=True)


class Shares(_DeviceSettings):
    """The parts of the ceilings that programs reach, as shares of 1.

    Attributes:
        products: share of operations a second, in the matrix products of real layers.
        bandwidth: share of memory bandwidth, while weights are read or updated.
        elementwise: share of memory bandwidth between matrix products: norms, activations, sums.
        links: share of the bandwidth between devices.
    """

    products: float = Field(gt=0, le=1)
    bandwidth: float = Field(gt=0, le=1)
    elementwise: float = Field(gt=0, le=1)
    links: float = Field(gt=0, le=1)


class Device(_DeviceSettings):
    """One device and its links. Rates are per device and direction. The keys of a device file are in `FILE_KEYS`.

    Attributes:
        name: name of the device.
        source: where its ceilings come from.
        shares_measured: whether the shares and `layer_seconds` were measured, not assumed.
        operations: operations a second in large matrix products, by `mixed_precision`.
        bandwidth: memory bandwidth, bytes a second.
        memory: bytes.
        shares: shares of the ceilings that programs reach.
        layer_seconds: seconds to launch the calls of one Transformer layer. A layer takes at least this time.
        update_seconds: seconds to launch the optimizer's calls for one layer. They take at least this time.
        launches_asynchronously: whether calls are launched while earlier ones run, as on an accelerator.
        optimizer_bytes: bytes read and written for each weight in an update: scaling, clipping, AdamW.
        per_node: devices in a node.
        link_in_node: bytes a second to another device of the node.
        link_between_nodes: bytes a second to other nodes.
        hop_seconds: latency of one message between nodes.
        feature_rate: seconds of audio that one CPU core decodes and turns into one model's features in a second.
    """

    name: str
    source: str
    shares_measured: bool
    operations: dict[Precision, float]
    bandwidth: float = Field(gt=0)
    memory: float = Field(gt=0)
    shares: Shares
    layer_seconds: float = Field(ge=0)
    update_seconds: float = Field(ge=0)
    launches_asynchronously: bool
    optimizer_bytes: float = Field(gt=0)
    per_node: int = Field(ge=1)
    link_in_node: float = Field(gt=0)
    link_between_nodes: float = Field(gt=0)
    hop_seconds: float = Field(ge=0)
    feature_rate: float = Field(gt=0)


# Not measured in this project; docs/scaling.md has the sources.
ASSUMED_SHARES = Shares(products=0.5, bandwidth=0.7, elementwise=0.7, links=0.7)
# Qwen2's published speed benchmark: 50 tokens a second, 24 layers, Transformers, batch 1, A100.
ASSUMED_LAYER_SECONDS = 1 / 50 / 24
# The gradients of a layer's twelve tensors are scaled in one call each; all other calls are fused.
ASSUMED_UPDATE_SECONDS = 12 * 10e-6
# Fused AdamW 28; scaling the gradient 8, its norm 4, clipping it 8.
FUSED_OPTIMIZER_BYTES = 48
# Less than half of the rate of one AMD EPYC core on 16 kHz FLAC (benchmarks/plan.py): real files and busy machines are
# slower. Assumed for the cores of GPU machines too.
ASSUMED_FEATURE_RATE = 1000.0


def _gpu(
    name: str, source: str, *, half: float, single: float, bandwidth: float, memory: float, node: float, nic: float
) -> Device:
    return Device(
        name=name,
        source=source,
        shares_measured=False,
        operations={"no": single, "bf16": half, "fp16": half},
        bandwidth=bandwidth,
        memory=memory,
        shares=ASSUMED_SHARES,
        layer_seconds=ASSUMED_LAYER_SECONDS,
        update_seconds=ASSUMED_UPDATE_SECONDS,
        launches_asynchronously=True,
        optimizer_bytes=FUSED_OPTIMIZER_BYTES,
        per_node=8,
        link_in_node=node,
        link_between_nodes=nic,
        hop_seconds=10e-6,
        feature_rate=ASSUMED_FEATURE_RATE,
    )


DEVICES = {
    "h100": _gpu(
        "NVIDIA H100 SXM 80 GB",
        "NVIDIA's data sheet, without sparsity; DGX H100: 400 Gb/s of network a GPU",
        half=989e12,
        single=67e12,
        bandwidth=3.35e12,
        memory=80e9,
        node=450e9,
        nic=50e9,
    ),
    "h200": _gpu(
        "NVIDIA H200 SXM 141 GB",
        "NVIDIA's data sheet, without sparsity; DGX H200: 400 Gb/s of network a GPU",
        half=989e12,
        single=67e12,
        bandwidth=4.8e12,
        memory=141e9,
        node=450e9,
        nic=50e9,
    ),
    "a100": _gpu(
        "NVIDIA A100 SXM 80 GB",
        "NVIDIA's data sheet, without sparsity; DGX A100: 200 Gb/s of network a GPU",
        half=312e12,
        single=19.5e12,
        bandwidth=2.039e12,
        memory=80e9,
        node=300e9,
        nic=25e9,
    ),
}


def device_called(name: str) -> Device:
    """A device of `DEVICES`, or one from a file that `benchmarks/plan.py` wrote.

    Raises:
        InputError: the name is neither a device nor a file, or the file does not describe a device.
    """
    if name in DEVICES:
        return DEVICES[name]
    path = Path(name)
    if not path.is_file():
        raise InputError(
            f"--device {name}: {nearest_of(name, DEVICES)}; or give a file written by `python -m benchmarks.plan`"
        )
    try:
        return Device.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {key}: {first['msg']}; write it again with `python -m benchmarks.plan`") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}; write it again with `python -m benchmarks.plan`") from error
