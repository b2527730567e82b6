"""What the parts of `benchmarks.gpu` share: where they run, the models and the speech they run on, what they find."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from benchmarks.opd_step import base_vocabulary, built_on

from arkasr.data.audio import SAMPLE_RATE, decode_audio
from arkasr.data.manifests.manifest import read_manifest
from arkasr.recognizers.ark_asr import ARK_ASR_PRESETS, build_ark_asr
from arkasr.recognizers.qwen3_asr import QWEN3_ASR_PRESETS, build_qwen3_asr
from arkasr.recognizers.recognizer import Recognizer

PUBLISHED_VOCABULARY = 151_936


@dataclass(frozen=True)
class Finding:
    """One line of a table.

    Attributes:
        what: was looked at.
        value: as it is printed.
        passed: whether it is as it must be; None where it is a figure that nothing is asked of.
    """

    what: str
    value: str
    passed: bool | None = None


@dataclass(frozen=True)
class Setting:
    """Where the parts run.

    Attributes:
        device: `cuda`, or `cpu` to try the code.
        tiny: models of the quickstart's size in place of the published shapes.
        speech: folder of manifests with real recordings; None = noise.
    """

    device: str
    tiny: bool
    speech: Path | None = None

    def student(self, dtype: torch.dtype = torch.float32) -> Recognizer:
        """Ark-ASR with random weights, of the published 0.6B shape."""
        sizes = ARK_ASR_PRESETS["ark-asr-tiny" if self.tiny else "ark-asr-0.6b"]
        return self._built(build_ark_asr, sizes | self._width(), dtype)

    def teacher(self, dtype: torch.dtype = torch.float32) -> Recognizer:
        """Qwen3-ASR with random weights, of the published 1.7B shape."""
        sizes = QWEN3_ASR_PRESETS["qwen3-asr-tiny" if self.tiny else "qwen3-asr-1.7b"]
        return self._built(build_qwen3_asr, sizes | {"text_config": sizes["text_config"] | self._width()}, dtype)

    def clips(self, seconds: list[float]) -> list[np.ndarray]:
        """Float32 `[samples]`, 16 kHz: recordings one after the other until a clip has its length."""
        recorded = cycle(self._recordings())
        clips = []
        for length in seconds:
            samples, clip = round(length * SAMPLE_RATE), np.zeros(0, dtype=np.float32)
            while len(clip) < samples:
                clip = np.concatenate((clip, next(recorded)))
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

    def _built(self, build, sizes, dtype: torch.dtype) -> Recognizer:
        torch.manual_seed(0)
        recognizer = built_on(self.device, build, sizes, base_vocabulary(0 if self.tiny else PUBLISHED_VOCABULARY))
        recognizer.model.to(dtype).eval()
        return recognizer


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """‖found − expected‖ / ‖expected‖ in float64; NaN where either holds one."""
    found, expected = found.detach().double(), expected.detach().double()
    return ((found - expected).norm() / expected.norm()).item()


def within(what: str, difference: float, limit: float) -> Finding:
    """A difference and whether it is small enough; NaN is not."""
    return Finding(what, f"{difference:.1e} (limit {limit:.0e})", difference <= limit)


def all_equal(what: str, same: int, among: int) -> Finding:
    """How many of so many things are as they must be."""
    return Finding(what, f"{same} of {among}", same == among)


Findings = Iterator[Finding]
