"""Models with random weights and utterances of noise, for benchmarks that need a shape and no trained model."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arkasr.data.audio import SAMPLE_RATE
from arkasr.data.examples import Example
from arkasr.data.manifests.manifest import Utterance
from arkasr.model.processor import INSTRUCTION
from arkasr.recognizers.ark_asr import ARK_ASR_PRESETS
from arkasr.recognizers.qwen3_asr import PROMPT_WORDS, QWEN3_ASR_PRESETS
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.tokenizer import BaseVocabulary, train_base_vocabulary

WORDS = tuple("one two three four five six seven eight nine ten red green book train bus london paris".split())  # noqa: SIM905
QWEN_BASE_TOKENS = 151_643
ROWS_OF_ADDED_TOKENS = 100

_TINY_STUDENT, _TINY_TEACHER = ARK_ASR_PRESETS["ark-asr-tiny"], QWEN3_ASR_PRESETS["qwen3-asr-tiny"]
_PUBLISHED_MELS = {"num_mel_bins": ARK_ASR_PRESETS["ark-asr-0.6b"]["whisper_config"]["num_mel_bins"]}
# The smallest models with the features of the published ones.
STUDENT_OF_PUBLISHED_FEATURES = _TINY_STUDENT | {"whisper_config": _TINY_STUDENT["whisper_config"] | _PUBLISHED_MELS}
TEACHER_OF_PUBLISHED_FEATURES = _TINY_TEACHER | {"audio_config": _TINY_TEACHER["audio_config"] | _PUBLISHED_MELS}

Builder = Callable[[Mapping[str, Any], BaseVocabulary], Recognizer]


def base_vocabulary(rows: int) -> BaseVocabulary:
    """Tokens of a few words and unused tokens, to fill an output head of `rows` rows; at most as many as Qwen has."""
    learned = train_base_vocabulary([" ".join(WORDS)] * 3, 400, [INSTRUCTION, *PROMPT_WORDS])
    size = min(rows - ROWS_OF_ADDED_TOKENS, QWEN_BASE_TOKENS)
    unused = {f"w{token_id}": token_id for token_id in range(len(learned.token_to_id), size)}
    return replace(learned, token_to_id=learned.token_to_id | unused)


def build_on_device(device: str, build: Builder, sizes: Mapping[str, Any], vocabulary: BaseVocabulary) -> Recognizer:
    """Draw the random weights on the device; a billion of them take a minute on a CPU."""
    with torch.device(device):
        recognizer = build(sizes, vocabulary)
    recognizer.allowed_tokens = recognizer.allowed_tokens.cpu()
    return recognizer


def noise_examples(recognizers: list[Recognizer], options: argparse.Namespace) -> list[Example]:
    """`options.utterances` clips of noise, each 90 to 100% of `options.seconds` long, with random words as text.

    Each text has at least `options.tokens` tokens of the first recognizer. Each clip has features for all recognizers.
    """
    generator = np.random.default_rng(0)
    student = recognizers[0]
    examples = []
    for number in range(options.utterances):
        seconds = options.seconds * generator.uniform(0.9, 1.0)
        waveform = generator.normal(size=int(seconds * SAMPLE_RATE)).astype(np.float32) * 0.1
        text = ""
        while len(student.transcript_ids(text)) < options.tokens:
            text += f" {generator.choice(WORDS)}"
        fields = (Path("noise.wav"), text, None, None, "English", str(number), None, seconds, {})
        features = {recognizer.frontend: recognizer.features(waveform) for recognizer in recognizers}
        examples.append(Example(Utterance(*fields), features))
    return examples
