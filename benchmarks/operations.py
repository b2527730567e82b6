"""Floating-point operations of a training step, and the operations and bytes a second that a machine reaches."""

import argparse

import torch
from benchmarks.timing import seconds_taken

from arkasr.recognizers.recognizer import Recognizer


def peak_speeds(device: str, precision: str) -> tuple[float, float]:
    """Operations a second of a large matrix product, and bytes a second of a large copy, measured now."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    source = torch.zeros(2**27, device=device)
    target = torch.empty_like(source)
    products = [seconds_taken(lambda: a @ b, device) for _ in range(5)]
    if device == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available():
        left = a.to_mkldnn()
        products += [seconds_taken(lambda: torch.nn.functional.linear(left, b), device) for _ in range(5)]
    copies = [seconds_taken(lambda: target.copy_(source), device) for _ in range(5)]
    return 2 * size**3 / min(products), 2 * source.nbytes / min(copies)


def operations_of_phases(student: Recognizer, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Multiplications and additions of each phase, by stage (`sft`, `opd`).

    Only real frames and tokens are counted, without padding. Attention is included, the teacher is not.
    """
    frames = options.seconds * 0.95 * 50
    positions = frames / 4 + len(student.prompt_ids(4, None)) + options.tokens
    config, audio = student.model.config, student.model.config.whisper_config
    encoder = 2 * frames * _weights(student.audio_modules[0]) + 4 * frames**2 * audio.d_model * audio.encoder_layers
    attention = 2 * positions**2 * config.hidden_size * config.num_hidden_layers
    decoder = 2 * positions * _weights(student.decoder.layers) + attention
    head = 2 * options.tokens * student.head.numel()
    forward = decoder + head
    of_utterance = {
        "sft": {"encode": encoder, "student": forward, "backward": 2 * (encoder + forward)},
        "opd": {"encode": encoder, "rollout": forward, "student": forward, "backward": 2 * (encoder + decoder)},
    }
    return {
        stage: {phase: options.utterances * count for phase, count in phases.items()}
        for stage, phases in of_utterance.items()
    }


def _weights(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.dim() > 1)
