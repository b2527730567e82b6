"""What all parts of `benchmarks.gpu` share: device, models and speech that they run on, and what they report."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.random_models import Builder, base_vocabulary, build_on_device

from arkasr.data.audio import SAMPLE_RATE, decode_audio
from arkasr.data.manifests.manifest import read_manifest
from arkasr.recognizers.ark_asr import ARK_ASR_PRESETS, build_ark_asr
from arkasr.recognizers.qwen3_asr import QWEN3_ASR_PRESETS, build_qwen3_asr
from arkasr.recognizers.recognizer import Prompts, Recognizer

PUBLISHED_VOCABULARY = 151_936
CLIP_SECONDS = (3.1, 12.0, 0.7, 8.4, 15.9, 5.5)  # of a batch of mixed lengths


@dataclass(frozen=True)
class Finding:
    """One row of a part's table.

    Attributes:
        what: the check or figure.
        value: as it is printed.
        passed: whether the check passed; None for a figure without a limit.
    """

    what: str
    value: str
    passed: bool | None = None


Findings = Iterator[Finding]


@dataclass(frozen=True)
class Setting:
    """Where the parts run.

    Attributes:
        device: `cuda`, or `cpu` to try the code.
        tiny: models of the quickstart's size instead of the published shapes.
        speech: folder of manifests with real recordings; None = noise.
    """

    device: str
    tiny: bool
    speech: Path | None = None

    @property
    def fast_dtype(self) -> torch.dtype:
        """Bfloat16 as in training on a GPU, float32 for the tiny models."""
        return torch.float32 if self.tiny else torch.bfloat16

    def student(self, dtype: torch.dtype = torch.float32) -> Recognizer:
        """Ark-ASR with random weights, of the published 0.6B shape."""
        sizes = ARK_ASR_PRESETS["ark-asr-tiny" if self.tiny else "ark-asr-0.6b"]
        return self._build(build_ark_asr, sizes | self._width(), dtype)

    def teacher(self, dtype: torch.dtype = torch.float32) -> Recognizer:
        """Qwen3-ASR with random weights, of the published 1.7B shape."""
        sizes = QWEN3_ASR_PRESETS["qwen3-asr-tiny" if self.tiny else "qwen3-asr-1.7b"]
        return self._build(build_qwen3_asr, sizes | {"text_config": sizes["text_config"] | self._width()}, dtype)

    def clips(self, seconds: Sequence[float]) -> list[np.ndarray]:
        """Float32 `[samples]`, 16 kHz: recordings are joined until each clip has its length."""
        recordings = cycle(self._recordings())
        clips = []
        for length in seconds:
            samples, clip = round(length * SAMPLE_RATE), np.zeros(0, dtype=np.float32)
            while len(clip) < samples:
                clip = np.concatenate((clip, next(recordings)))
            clips.append(clip[:samples])
        return clips

    def _recordings(self) -> list[np.ndarray]:
        manifests = sorted(self.speech.rglob("*.jsonl")) if self.speech else []
        utterances = [utterance for manifest in manifests for utterance in read_manifest(manifest)]
        if not utterances:
            noise = np.random.default_rng(0).normal(size=30 * SAMPLE_RATE) * 0.1
            return [noise.astype(np.float32)]
        return [decode_audio(item.audio, item.begin_time, item.end_time) for item in utterances]

    def _width(self) -> dict[str, int]:
        return {} if self.tiny else {"vocab_size": PUBLISHED_VOCABULARY}

    def _build(self, build: Builder, sizes: Mapping[str, Any], dtype: torch.dtype) -> Recognizer:
        torch.manual_seed(0)
        vocabulary = base_vocabulary(0 if self.tiny else PUBLISHED_VOCABULARY)
        recognizer = build_on_device(self.device, build, sizes, vocabulary)
        recognizer.model.to(dtype).eval()
        return recognizer


def prompts_of(recognizer: Recognizer, clips: Sequence[np.ndarray]) -> Prompts:
    """Prompts of English clips, on the recognizer's device."""
    features = [recognizer.features(clip) for clip in clips]
    return recognizer.prompts(features, ["English"] * len(clips)).to(recognizer.device)


def name_of(dtype: torch.dtype) -> str:
    """For example `float32`."""
    return str(dtype).removeprefix("torch.")


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """‖found − expected‖ / ‖expected‖ in float64; NaN if a tensor has a NaN."""
    found, expected = found.detach().double(), expected.detach().double()
    return ((found - expected).norm() / expected.norm()).item()


def within(what: str, difference: float, limit: float) -> Finding:
    """Passes if the difference is at most the limit; NaN does not pass."""
    return Finding(what, f"{difference:.1e} (limit {limit:.0e})", difference <= limit)


def all_equal(what: str, equal: int, total: int) -> Finding:
    """Passes if all are equal."""
    return Finding(what, f"{equal} of {total}", equal == total)
