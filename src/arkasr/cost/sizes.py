"""How large a recogniser is, read from its real classes without memory for weights.

In: a model as a recipe names it. Out: the counts that every estimate begins with. Knows nothing of batches or devices.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor

import arkasr.model  # noqa: F401  (registers Ark-ASR with the Auto classes)
from arkasr.errors import InputError, first_line_of
from arkasr.model.frames import HOP_LENGTH
from arkasr.model.processor import INSTRUCTION
from arkasr.recipe.presets import build_preset
from arkasr.recipe.settings import ModelSettings, TokenizerSettings
from arkasr.recognizers.ark_asr import ArkAsr
from arkasr.recognizers.load import FAMILIES
from arkasr.recognizers.qwen3_asr import PROMPT_WORDS
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.tokenizer import BYTE_TOKENS, BaseVocabulary, train_base_vocabulary

MEL_FRAMES_PER_SECOND = 16_000 / HOP_LENGTH
MEASURED_FRAMES = 3000  # 30 s, where the rounding of frames to tokens does not show
LEARNED_PROMPT_TOKENS = 150  # merges that are enough to write the prompts in words
# Published models by name, as preset and what differs (specification ark-asr-checkpoint, sections 1 and 7).
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "AutoArk-AI/ARK-ASR-0.6B": ("ark-asr-0.6b", {"vocab_size": 163_958}),
    "AutoArk-AI/ARK-ASR-3B": (
        "ark-asr-0.6b",
        {
            "hidden_size": 2048,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "intermediate_size": 11_008,
            "vocab_size": 151_936,
        },
    ),
    "Qwen/Qwen3-ASR-1.7B-hf": ("qwen3-asr-1.7b", {"text_config": {"vocab_size": 151_936}}),
    "Qwen/Qwen3-ASR-0.6B-hf": (
        "qwen3-asr-1.7b",
        {
            "text_config": {"vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072},
            "audio_config": {
                "d_model": 896,
                "encoder_layers": 18,
                "encoder_attention_heads": 14,
                "encoder_ffn_dim": 3584,
                "output_dim": 1024,
            },
        },
    ),
}


@dataclass(frozen=True)
class Stack:
    """Transformer layers of one kind.

    Attributes:
        layers: their number.
        matrices: entries of a layer's weight matrices.
        width: of the stream between layers.
        queries: of all heads together; values and their sums are as wide.
        keys: of all key heads together.
        inner: of the feed-forward part.
        gated: a gated feed-forward part behind root-mean-square norms (Qwen), else a plain one behind layer norms.
    """

    layers: int
    matrices: int
    width: int
    queries: int
    keys: int
    inner: int
    gated: bool

    def operations(self, positions: float, seen: float) -> float:
        """Multiplications and additions of a forward pass over `positions` that each attend to `seen` others."""
        return self.layers * positions * (2 * self.matrices + 4 * self.queries * seen)

    def kept(self, positions: float, *, mixed: bool) -> float:
        """Bytes that all layers keep of `positions` for the backward pass, weights left out.

        Norms work in float32 and the rest, with mixed precision, in 2 bytes. Counted on the real layers, as
        `tests/cost/test_memory.py` does again.
        """
        size = 2 if mixed else 4
        if self.gated:
            around_norms = 26 if mixed else 24
            inside = 2 * self.queries + 2 * self.keys + 4 * self.inner
        else:
            around_norms = 12 if mixed else 16
            inside = 5 * self.queries + 2 * self.inner
        return self.layers * positions * (around_norms * self.width + size * inside)


@dataclass(frozen=True)
class Size:
    """A recogniser in numbers.

    Attributes:
        name: as the recipe calls it.
        parameters: entries of all weights, tied ones once.
        encoder: layers over audio frames.
        decoder: layers over audio tokens, prompt and text.
        frames_per_second: positions of the encoder's layers for a second of audio.
        window_seconds: how far the encoder attends; None = the whole clip.
        front: operations of convolutions and projector for a second of audio.
        audio_tokens_per_second: positions of the decoder for a second of audio.
        prompt_tokens: positions of the decoder for the words around the audio.
        vocabulary: rows of the output head.
        width: of the output head.
    """

    name: str
    parameters: int
    encoder: Stack
    decoder: Stack
    frames_per_second: float
    window_seconds: float | None
    front: float
    audio_tokens_per_second: float
    prompt_tokens: int
    vocabulary: int
    width: int


def size_of_model(name: str, model: ModelSettings, tokenizer: TokenizerSettings | None) -> Size:
    """The size of a model that a recipe names.

    Raises:
        InputError: it is neither a preset, nor one of the published models, nor a folder with a config.
    """
    if model.preset is not None:
        assert tokenizer is not None
        return size_of(name, _empty_preset(model.preset, model.sizes, tokenizer.vocab_size))
    assert model.pretrained is not None
    if model.pretrained in PUBLISHED:
        return replace(_published(model.pretrained), name=name)
    if not Path(model.pretrained).is_dir():
        raise InputError(
            f"models.{name}.pretrained: {model.pretrained} is neither a folder nor a published model whose sizes are "
            f"known ({', '.join(PUBLISHED)}); fetch it and name its folder with --set models.{name}.pretrained=FOLDER"
        )
    return size_of(name, _empty_folder(name, model.pretrained))


def size_of(name: str, recognizer: Recognizer) -> Size:
    """The size of a recogniser, whose weights may be on the meta device."""
    seconds = MEASURED_FRAMES / MEL_FRAMES_PER_SECOND
    tokens = recognizer.audio_token_count(MEASURED_FRAMES)
    encoder, frames, window, front = _ark(recognizer) if isinstance(recognizer, ArkAsr) else _qwen(recognizer)
    layers: Any = recognizer.decoder.layers
    config: Any = recognizer.decoder.config
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    decoder = _stack(
        layers,
        width=config.hidden_size,
        queries=head_width * config.num_attention_heads,
        keys=head_width * config.num_key_value_heads,
        inner=config.intermediate_size,
        gated=True,
    )
    return Size(
        name=name,
        parameters=sum(parameter.numel() for parameter in recognizer.model.parameters()),
        encoder=encoder,
        decoder=decoder,
        frames_per_second=frames,
        window_seconds=window,
        front=front,
        audio_tokens_per_second=tokens / seconds,
        prompt_tokens=len(recognizer.prompt_ids(MEASURED_FRAMES, "English")) - tokens,
        vocabulary=recognizer.vocab_size,
        width=recognizer.embedding_size,
    )


def _ark(recognizer: Recognizer) -> tuple[Stack, float, float | None, float]:
    encoder: Any = recognizer.audio_modules[0]
    whisper, config = encoder.whisper, recognizer.model.config.whisper_config
    frames = MEL_FRAMES_PER_SECOND / 2
    front = 2 * (
        MEL_FRAMES_PER_SECOND * _matrices(whisper.conv1)
        + frames * _matrices(whisper.conv2)
        + frames / recognizer.model.config.merge_factor * _matrices(encoder.adapting)
    )
    width = config.d_model
    stack = _stack(whisper.layers, width=width, queries=width, keys=width, inner=config.encoder_ffn_dim, gated=False)
    return stack, frames, None, front


def _qwen(recognizer: Recognizer) -> tuple[Stack, float, float | None, float]:
    tower, projector = recognizer.audio_modules
    encoder: Any = tower
    config = recognizer.model.config.audio_config
    tokens = recognizer.audio_token_count(MEASURED_FRAMES) * MEL_FRAMES_PER_SECOND / MEASURED_FRAMES
    chunk = 2 * config.n_window
    front, bins, steps = 0.0, config.num_mel_bins, chunk
    for convolution in (encoder.conv2d1, encoder.conv2d2, encoder.conv2d3):
        bins, steps = -(-bins // 2), -(-steps // 2)
        front += 2 * _matrices(convolution) * bins * steps * MEL_FRAMES_PER_SECOND / chunk
    front += 2 * tokens * (_matrices(encoder.conv_out) + _matrices(projector))
    width = config.d_model
    stack = _stack(encoder.layers, width=width, queries=width, keys=width, inner=config.encoder_ffn_dim, gated=False)
    return stack, tokens, config.n_window_infer / MEL_FRAMES_PER_SECOND, front


def _stack(layers: Any, *, width: int, queries: int, keys: int, inner: int, gated: bool) -> Stack:
    return Stack(len(layers), _matrices(layers[0]), width, queries, keys, inner, gated)


def _matrices(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.dim() > 1)


@cache
def _published(name: str) -> Size:
    preset, differing = PUBLISHED[name]
    return size_of(name, _empty_preset(preset, differing, BYTE_TOKENS + LEARNED_PROMPT_TOKENS))


def _empty_preset(preset: str, sizes: dict[str, Any], tokens: int) -> Recognizer:
    """A preset's recogniser on the meta device, with as many tokens in its base vocabulary."""
    with init_empty_weights():
        recognizer = build_preset(preset, sizes, _vocabulary(tokens))
    recognizer.model.tie_weights()
    return recognizer


def _vocabulary(tokens: int) -> BaseVocabulary:
    """What the prompts are written with, and other tokens that fill it up."""
    prompts = [INSTRUCTION, *PROMPT_WORDS]
    learned = train_base_vocabulary([INSTRUCTION], min(tokens, BYTE_TOKENS + LEARNED_PROMPT_TOKENS), prompts)
    others = {f"other-{token_id}": token_id for token_id in range(len(learned.token_to_id), tokens)}
    return BaseVocabulary(learned.token_to_id | others, learned.merges)


def _empty_folder(name: str, folder: str) -> Recognizer:
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if config.model_type not in FAMILIES:
            raise InputError(
                f"models.{name}.pretrained: {folder} is of type {config.model_type!r}; known are {', '.join(FAMILIES)}"
            )
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except InputError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise InputError(
            f"models.{name}.pretrained: {folder}: {first_line_of(error)} Give a folder written by arkasr"
        ) from error
    with init_empty_weights():
        model = AutoModelForMultimodalLM.from_config(config)
    model.tie_weights()
    recognizer: Recognizer = FAMILIES[config.model_type](model, processor)
    return recognizer
