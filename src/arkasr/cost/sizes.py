"""Parameters, layers and token rates of a recogniser, counted on its real classes.

In: a recogniser, whose weights may be on the meta device. Out: its `Size`. Batches and devices are left to others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import nn

from arkasr.cost.empty_models import empty_model
from arkasr.model.frames import HOP_LENGTH
from arkasr.recipe.settings import ModelSettings, TokenizerSettings
from arkasr.recognizers.ark_asr import ArkAsr
from arkasr.recognizers.decoder_only import DecoderOnlyRecognizer
from arkasr.recognizers.qwen3_asr import Qwen3Asr
from arkasr.recognizers.recognizer import Recognizer

MEL_FRAMES_PER_SECOND = 16_000 / HOP_LENGTH
MEASURED_FRAMES = 3000  # 30 s: so long that rounding of frames to tokens does not matter
FLOAT_BYTES = 4


def number_bytes(mixed: bool) -> int:
    """Bytes of a number in matrix products: 2 with mixed precision, else 4."""
    return 2 if mixed else FLOAT_BYTES


@dataclass(frozen=True)
class Stack:
    """Transformer layers of one kind.

    Attributes:
        layers: number of layers.
        weights_per_layer: entries of the weight matrices of one layer.
        width: hidden width, `H`.
        query_width: width of all query heads together; the attention output has the same width.
        key_width: width of all key heads together.
        feed_forward_width: inner width of the feed-forward part.
        gated: True = gated feed-forward part and RMSNorm (Qwen); False = plain one and LayerNorm (Whisper).
    """

    layers: int
    weights_per_layer: int
    width: int
    query_width: int
    key_width: int
    feed_forward_width: int
    gated: bool

    @property
    def weights(self) -> int:
        """Entries of all weight matrices."""
        return self.layers * self.weights_per_layer

    def operations(self, positions: float, attended: float) -> float:
        """Multiplications and additions of a forward pass if each position attends to `attended` positions."""
        return self.layers * positions * (2 * self.weights_per_layer + 4 * self.query_width * attended)

    def kept_bytes(self, positions: float, *, mixed: bool) -> float:
        """Bytes of activations that all layers keep for the backward pass.

        Norms work in float32. With mixed precision, the rest works in 2 bytes. The numbers were counted on real layers;
        `tests/cost/test_memory.py` compares them again.
        """
        if self.gated:
            norm_bytes = 26 if mixed else 24
            inside = 2 * self.query_width + 2 * self.key_width + 4 * self.feed_forward_width
        else:
            norm_bytes = 12 if mixed else 16
            inside = 5 * self.query_width + 2 * self.feed_forward_width
        return self.layers * positions * (norm_bytes * self.width + number_bytes(mixed) * inside)


@dataclass(frozen=True)
class Size:
    """The size of a recogniser.

    Attributes:
        parameters: entries of all weights; tied weights count once.
        encoder: layers over audio frames.
        decoder: layers over audio tokens, prompt and transcript.
        frames_per_second: encoder positions for each second of audio.
        window_seconds: audio that an encoder position attends to; None = the whole utterance.
        padded_seconds: audio that each utterance is padded to; None = not padded.
        front_operations: operations of convolutions and projector for each second of audio.
        audio_tokens_per_second: decoder positions for each second of audio.
        cross_positions: encoder positions that a decoder position attends to by cross-attention; 0 = none.
        prompt_tokens: decoder positions of the prompt around the audio.
        vocabulary: rows of the output head, `V`.
        width: columns of the output head, `H`.
        parts: entries of the weights of each part of the model, by name.
        frozen: names of the parts that a stage does not train.
    """

    parameters: int
    encoder: Stack
    decoder: Stack
    frames_per_second: float
    window_seconds: float | None
    padded_seconds: float | None
    front_operations: float
    audio_tokens_per_second: float
    cross_positions: float
    prompt_tokens: int
    vocabulary: int
    width: int
    parts: Mapping[str, int]
    frozen: frozenset[str] = frozenset()

    @property
    def trained_parameters(self) -> int:
        """Entries of the weights that are trained."""
        return self.parameters - sum(self.parts[part] for part in self.frozen)

    @property
    def trained_layers(self) -> int:
        """Layers of encoder and decoder that are trained."""
        stacks = {"encoder": self.encoder, "decoder": self.decoder}
        return sum(stack.layers for part, stack in stacks.items() if part not in self.frozen)

    @property
    def layers(self) -> int:
        """Layers of encoder and decoder."""
        return self.encoder.layers + self.decoder.layers

    @property
    def layer_weights(self) -> int:
        """Entries of the weight matrices of all layers."""
        return self.encoder.weights + self.decoder.weights

    @property
    def head_weights(self) -> int:
        """Entries of the output head."""
        return self.vocabulary * self.width

    def cache_bytes(self, positions: float, *, mixed: bool) -> float:
        """Bytes of the decoder's keys and values at this many positions, without cross-attention."""
        return 2 * self.decoder.layers * self.decoder.key_width * number_bytes(mixed) * positions


class _Encoder(NamedTuple):
    """The fields of `Size` that describe the encoder."""

    stack: Stack
    frames_per_second: float
    front_operations: float
    window_seconds: float | None = None
    padded_seconds: float | None = None


class _Prompt(NamedTuple):
    """What the decoder reads before a transcript, for a clip of `MEASURED_FRAMES`."""

    audio_tokens: int
    other_tokens: int
    cross_positions: int


def size_of_model(name: str, model: ModelSettings, tokenizer: TokenizerSettings | None) -> Size:
    """The size of a model that a recipe names.

    Raises:
        InputError: as `empty_model` does.
    """
    return size_of(empty_model(name, model, tokenizer))


def size_of(recognizer: Recognizer) -> Size:
    """The size of a recogniser. Its weights may be on the meta device."""
    encoder, prompt = _encoder(recognizer), _prompt(recognizer)
    return Size(
        parameters=sum(parameter.numel() for parameter in recognizer.model.parameters()),
        encoder=encoder.stack,
        decoder=_decoder(recognizer),
        frames_per_second=encoder.frames_per_second,
        window_seconds=encoder.window_seconds,
        padded_seconds=encoder.padded_seconds,
        front_operations=encoder.front_operations,
        audio_tokens_per_second=prompt.audio_tokens * MEL_FRAMES_PER_SECOND / MEASURED_FRAMES,
        cross_positions=prompt.cross_positions,
        prompt_tokens=prompt.other_tokens,
        vocabulary=recognizer.vocab_size,
        width=recognizer.embedding_size,
        parts={
            part: sum(parameter.numel() for parameter in recognizer.parameters_of(part)) for part in recognizer.parts
        },
    )


def _prompt(recognizer: Recognizer) -> _Prompt:
    if isinstance(recognizer, DecoderOnlyRecognizer):
        audio_tokens = recognizer.audio_token_count(MEASURED_FRAMES)
        return _Prompt(audio_tokens, len(recognizer.prompt_ids(MEASURED_FRAMES, "English")) - audio_tokens, 0)
    prompts = recognizer.prompts([torch.zeros(1, MEASURED_FRAMES)], [None])
    return _Prompt(0, prompts.lengths[0], prompts.audio_lengths[0])


def _encoder(recognizer: Recognizer) -> _Encoder:
    if isinstance(recognizer, ArkAsr):
        return _ark_encoder(recognizer)
    if isinstance(recognizer, Qwen3Asr):
        return _qwen_encoder(recognizer)
    return _whisper_encoder(recognizer)


def _whisper_encoder(recognizer: Recognizer) -> _Encoder:
    """The window is always computed whole. The keys and values of the cross-attention count as part of the front."""
    encoder: Any = recognizer.audio_modules[0]
    decoder: Any = recognizer.decoder
    frames = MEL_FRAMES_PER_SECOND / 2
    cross_projections = [module for layer in decoder.layers for module in _key_and_value(layer.encoder_attn)]
    front = 2 * (
        MEL_FRAMES_PER_SECOND * _matrix_entries(encoder.conv1)
        + frames * (_matrix_entries(encoder.conv2) + sum(map(_matrix_entries, cross_projections)))
    )
    stack = _encoder_stack(encoder.layers, encoder.config)
    return _Encoder(stack, frames, front, padded_seconds=recognizer.window_seconds)


def _ark_encoder(recognizer: Recognizer) -> _Encoder:
    encoder: Any = recognizer.audio_modules[0]
    whisper, config = encoder.whisper, recognizer.model.config.whisper_config
    frames = MEL_FRAMES_PER_SECOND / 2
    front = 2 * (
        MEL_FRAMES_PER_SECOND * _matrix_entries(whisper.conv1)
        + frames * _matrix_entries(whisper.conv2)
        + frames / recognizer.model.config.merge_factor * _matrix_entries(encoder.adapting)
    )
    return _Encoder(_encoder_stack(whisper.layers, config), frames, front)


def _qwen_encoder(recognizer: Qwen3Asr) -> _Encoder:
    tower, projector = recognizer.audio_modules
    encoder: Any = tower
    config = recognizer.model.config.audio_config
    tokens = recognizer.audio_token_count(MEASURED_FRAMES) * MEL_FRAMES_PER_SECOND / MEASURED_FRAMES
    chunk = 2 * config.n_window
    front, bins, steps = 0.0, config.num_mel_bins, chunk
    for convolution in (encoder.conv2d1, encoder.conv2d2, encoder.conv2d3):
        bins, steps = -(-bins // 2), -(-steps // 2)
        front += 2 * _matrix_entries(convolution) * bins * steps * MEL_FRAMES_PER_SECOND / chunk
    front += 2 * tokens * (_matrix_entries(encoder.conv_out) + _matrix_entries(projector))
    window_seconds = config.n_window_infer / MEL_FRAMES_PER_SECOND
    return _Encoder(_encoder_stack(encoder.layers, config), tokens, front, window_seconds)


def _encoder_stack(layers: Any, config: Any) -> Stack:
    return Stack(
        layers=len(layers),
        weights_per_layer=_matrix_entries(layers[0]),
        width=config.d_model,
        query_width=config.d_model,
        key_width=config.d_model,
        feed_forward_width=config.encoder_ffn_dim,
        gated=False,
    )


def _decoder(recognizer: Recognizer) -> Stack:
    layers: Any = recognizer.decoder.layers
    config: Any = recognizer.decoder.config
    if not isinstance(recognizer, DecoderOnlyRecognizer):
        crossing = sum(map(_matrix_entries, _key_and_value(layers[0].encoder_attn)))
        stack = _encoder_stack(layers, config)
        entries, inner_width = stack.weights_per_layer - crossing, config.decoder_ffn_dim
        return replace(stack, weights_per_layer=entries, feed_forward_width=inner_width)
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Stack(
        layers=len(layers),
        weights_per_layer=_matrix_entries(layers[0]),
        width=config.hidden_size,
        query_width=head_width * config.num_attention_heads,
        key_width=head_width * config.num_key_value_heads,
        feed_forward_width=config.intermediate_size,
        gated=True,
    )


def _key_and_value(attention: Any) -> tuple[nn.Module, nn.Module]:
    return attention.k_proj, attention.v_proj


def _matrix_entries(module: nn.Module) -> int:
    """Entries of all parameters but biases and norms."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.dim() > 1)
