"""What a device can do at best, and what share of that programs reach: from a short table, or from a file.

A share that nobody has measured in this project says so, and is printed so.
"""

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from arkasr.errors import InputError, nearest_of
from arkasr.settings import Settings

Precision = Literal["no", "bf16", "fp16"]


class Shares(Settings):
    """What is reached of a ceiling, shares of 1.

    Attributes:
        products: of the operations a second, in the matrix products of real layers.
        bandwidth: of the memory's bytes a second, where weights are read and updated.
        sweeps: of the same, in the calls between products: norms, activations, sums.
        links: of the bytes a second between devices.
    """

    products: float = Field(gt=0, le=1)
    bandwidth: float = Field(gt=0, le=1)
    sweeps: float = Field(gt=0, le=1)
    links: float = Field(gt=0, le=1)


class Device(Settings):
    """One device and its place in a cluster. Figures are of one device, in one direction.

    Attributes:
        name: what it is.
        source: where its ceilings are from.
        shares_measured: whether the shares and the price of a layer were measured, or are assumed.
        operations: operations a second in large matrix products, by `mixed_precision`.
        bandwidth: bytes a second of its memory.
        memory: bytes.
        shares: of these ceilings that are reached.
        layer_seconds: what a Transformer layer costs however little it reads: the launching of its calls.
        launches_ahead: whether calls are launched while earlier ones still run, as on an accelerator.
        update_seconds: what the optimizer's calls cost for the weights of one layer, however few they are.
        optimizer_bytes: read and written per weight in a step, from scaling the gradient to the last moment.
        per_node: devices of a node.
        link_in_node: bytes a second to another device of the node.
        link_between_nodes: bytes a second to other nodes.
        hop_seconds: latency of one message between nodes.
        hearing: seconds of audio that one core reads and turns into one model's features in a second.
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
    launches_ahead: bool
    optimizer_bytes: float = Field(gt=0)
    per_node: int = Field(ge=1)
    link_in_node: float = Field(gt=0)
    link_between_nodes: float = Field(gt=0)
    hop_seconds: float = Field(ge=0)
    hearing: float = Field(gt=0)


# docs/scaling.md says where these are from and what they are worth; none was measured in this project.
ASSUMED_SHARES = Shares(products=0.5, bandwidth=0.7, sweeps=0.7, links=0.7)
# 50 tokens a second of a 24-layer Qwen2 in Transformers, batch 1, A100 (Qwen2's published speed benchmark).
ASSUMED_LAYER_SECONDS = 1 / 50 / 24
# Twelve tensors of a layer are scaled one by one; the rest is fused.
ASSUMED_UPDATE_SECONDS = 12 * 10e-6
# Fused AdamW 28; scaling 8, the norm 4 and clipping 8 of the gradient.
FUSED_OPTIMIZER_BYTES = 48
# Less than half of what one core of an AMD EPYC makes of FLAC of 16 kHz (benchmarks/plan.py), for what real files and a
# busy machine cost; taken for a core of those machines, too.
HEARING = 1000.0


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
        launches_ahead=True,
        optimizer_bytes=FUSED_OPTIMIZER_BYTES,
        per_node=8,
        link_in_node=node,
        link_between_nodes=nic,
        hop_seconds=10e-6,
        hearing=HEARING,
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
    """A device of the table, or the one that a file describes, as `benchmarks/plan.py` writes it.

    Raises:
        InputError: there is no such device, or the file is not of one.
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
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {place}: {first['msg']}; write it anew with `python -m benchmarks.plan`") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}; write it anew with `python -m benchmarks.plan`") from error
