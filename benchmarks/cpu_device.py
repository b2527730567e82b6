"""Speeds of the CPU that this process runs on, as a device for `arkasr plan --device`.

Peak speeds are those of a large product and a large copy. The shares of them that programs reach, and the least time of
a layer, are measured on single calls and layers, never on training steps: `benchmarks.plan` tests them on such steps.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from benchmarks.operations import peak_speeds
from benchmarks.random_models import STUDENT_OF_PUBLISHED_FEATURES, base_vocabulary
from benchmarks.timing import seconds_taken
from torch.nn import functional as F

from arkasr.cost.device import Device, Shares
from arkasr.data.audio import SAMPLE_RATE, decode_audio
from arkasr.recognizers.ark_asr import ARK_ASR_PRESETS, build_ark_asr

UNFUSED_OPTIMIZER_BYTES = 100  # of AdamW as ten calls, with scaling, norm and clipping of the gradient


@torch.no_grad()
def measure_cpu() -> Device:
    """Measure with as many threads as torch uses now."""
    operations, bandwidth = peak_speeds("cpu", "no")
    rows, width, inner = 1024, 512, 2048
    states, matrix = torch.randn(rows, width), torch.randn(inner, width)
    product_speed = 2 * rows * width * inner / least_seconds(lambda: F.linear(states, matrix))
    large = torch.randn(16 * rows, width)
    sweeps = (lambda: F.layer_norm(large, (width,)), lambda: F.gelu(large), lambda: large + large, lambda: large * 2.0)
    read_and_written = (2 + 2 + 3 + 2) * large.nbytes
    sweep_speed = read_and_written / sum(map(least_seconds, sweeps))
    products, swept = min(product_speed / operations, 1.0), min(sweep_speed / bandwidth, 1.0)
    return Device(
        name=f"CPU, {torch.get_num_threads()} threads",
        source="a large product and a large copy, measured on this machine",
        shares_measured=True,
        operations={"no": operations},
        bandwidth=bandwidth,
        memory=machine_memory(),
        shares=Shares(products=products, bandwidth=1.0, elementwise=swept, links=1.0),
        layer_seconds=layer_seconds(),
        update_seconds=update_seconds(),
        launches_asynchronously=False,
        optimizer_bytes=UNFUSED_OPTIMIZER_BYTES,
        per_node=1,
        # Between processes of one machine, every byte is written and read again.
        link_in_node=bandwidth / 2,
        link_between_nodes=bandwidth / 2,
        hop_seconds=50e-6,
        feature_rate=feature_speed(),
    )


def least_seconds(function: Callable[[], object], repeats: int = 7) -> float:
    return min(seconds_taken(function, "cpu") for _ in range(repeats + 1))


def machine_memory() -> float:
    """Bytes of main memory."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemTotal"))


def layer_seconds() -> float:
    """Least time of a decoder layer: the smallest decoder on one token, so that its products take almost no time."""
    student = build_ark_asr(ARK_ASR_PRESETS["ark-asr-tiny"], base_vocabulary(0))
    embedded = torch.randn(1, 1, student.embedding_size)
    mask, position = torch.ones(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long)
    inputs = {"inputs_embeds": embedded, "attention_mask": mask, "position_ids": position, "use_cache": False}
    return least_seconds(partial(student.decoder, **inputs), 50) / student.model.config.num_hidden_layers


@torch.enable_grad()
def update_seconds() -> float:
    """Seconds of the optimizer's calls for the weights of one small layer."""
    layer = build_ark_asr(ARK_ASR_PRESETS["ark-asr-tiny"], base_vocabulary(0)).decoder.layers[0]
    optimizer = torch.optim.AdamW(layer.parameters())

    def update() -> None:
        for parameter in layer.parameters():
            parameter.grad.mul_(1.0)
        torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()

    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    return least_seconds(update, 20)


def feature_speed() -> float:
    """Seconds of audio that are decoded from FLAC and turned into one model's features in a second."""
    student = build_ark_asr(STUDENT_OF_PUBLISHED_FEATURES, base_vocabulary(0))
    seconds = 10.0
    waveform = np.random.default_rng(0).normal(size=int(seconds * SAMPLE_RATE)).astype(np.float32) * 0.1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.flac"
        soundfile.write(path, waveform, SAMPLE_RATE)
        return seconds / least_seconds(lambda: student.features(decode_audio(path)))
