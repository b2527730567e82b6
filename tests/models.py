"""Small models of the real classes, and examples whose audio is noise."""

from pathlib import Path

import numpy as np
import torch

from arkasr.data.examples import Example
from arkasr.data.manifests.manifest import Utterance
from arkasr.model.processor import INSTRUCTION
from arkasr.recipe.settings import ModelSettings
from arkasr.recognizers.ark_asr import ARK_ASR_PRESETS, build_ark_asr
from arkasr.recognizers.qwen3_asr import PROMPT_WORDS, QWEN3_ASR_PRESETS, build_qwen3_asr
from arkasr.recognizers.tokenizer import train_base_vocabulary
from arkasr.recognizers.whisper import build_whisper
from arkasr.run.starting_points import new_model

TEXTS = ["the red book is in london", "two green apples please", "今天去北京", "我要一张票", "mary met john today"]
SMALL_STUDENT = ARK_ASR_PRESETS["ark-asr-tiny"] | {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 64,
    "whisper_config": {
        "num_mel_bins": 40,
        "d_model": 32,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
    },
}


def small_vocabulary():
    return train_base_vocabulary(TEXTS * 3, 330, [INSTRUCTION, *PROMPT_WORDS])


SMALL_WHISPER = {
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "num_mel_bins": 40,
    "max_target_positions": 64,
}


# Factors of random weights that make transcripts depend on the audio. Most of Whisper's window is silence.
LISTENING_SCALE = {"student": 6, "teacher": 6, "whisper": 4}
CROSS_ATTENTION_SCALE = 10


def listening_model(family, vocabulary, student_sizes=SMALL_STUDENT):
    """A student, teacher or Whisper with random weights in float64, large enough for transcripts that differ."""
    torch.manual_seed(1)
    build = {
        "student": lambda: build_ark_asr(student_sizes, vocabulary),
        "teacher": lambda: build_qwen3_asr(QWEN3_ASR_PRESETS["qwen3-asr-tiny"], vocabulary),
        "whisper": lambda: build_whisper(SMALL_WHISPER, vocabulary),
    }
    built = build[family]()
    built.model.double().eval()
    with torch.no_grad():
        for name, parameter in built.model.named_parameters():
            if parameter.dim() > 1 and "embed_positions" not in name:
                parameter.mul_(LISTENING_SCALE[family])
            if "encoder_attn" in name and parameter.dim() > 1:
                parameter.mul_(CROSS_ATTENTION_SCALE)
    return built


def small_student(vocabulary):
    torch.manual_seed(0)
    return build_ark_asr(SMALL_STUDENT, vocabulary)


def small_teacher(vocabulary):
    torch.manual_seed(1)
    return build_qwen3_asr(QWEN3_ASR_PRESETS["qwen3-asr-tiny"], vocabulary)


def small_whisper(vocabulary):
    torch.manual_seed(2)
    return build_whisper(SMALL_WHISPER, vocabulary)


def small_student_from_whisper(vocabulary, folder):
    """A student whose encoder is that of the Whisper model in a folder."""
    sizes = {key: value for key, value in SMALL_STUDENT.items() if key not in ("whisper_config", "rope_theta")}
    settings = ModelSettings(preset="ark-asr-tiny", sizes=sizes, encoder=str(folder))
    return new_model("student", settings, vocabulary, 0, torch.device("cpu"))


def noise_examples(*recognizers, seconds=(0.8, 1.5, 1.1, 0.6, 1.3), texts=TEXTS):
    """Examples of noise with texts, and with the features of the given recognisers."""
    generator = np.random.default_rng(0)
    examples = []
    for index, (length, text) in enumerate(zip(seconds, texts, strict=False)):
        waveform = generator.normal(size=int(length * 16_000)).astype(np.float32) * 0.1
        language = "Chinese" if text and not text.isascii() else "English"
        utterance = Utterance(Path(f"noise-{index}.wav"), text, None, None, language, str(index), None, length, {})
        features = {recognizer.frontend: recognizer.features(waveform) for recognizer in recognizers}
        examples.append(Example(utterance, features))
    return examples
