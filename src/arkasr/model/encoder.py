"""The audio encoder of Ark-ASR: log-mel frames in, one embedding of the decoder's width per 80 ms out.

Two convolutions, pre-norm Transformer layers with a partial, interleaved rotary embedding, a norm, a merge of four
frames, and a two-layer adapter, as in the published checkpoints. With `use_rope: false`, convolutions, layers and norm
are Whisper's encoder: absolute positions and no rotation. Padding is masked at every step, so a clip's embeddings do
not depend on the other clips of its batch. Text is left to `model.py`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.whisper.modeling_whisper import eager_attention_forward, sinusoids

from arkasr.model.config import ArkAsrConfig

ROTARY_BASE = 10_000.0
FLOAT16_CEILING = 65_504.0 - 1_000.0

# Cosine and sine of `interleaved_rotary_table`; None = no rotation.
Rotation = tuple[Tensor, Tensor] | None


def interleaved_rotary_table(frames: int, rotary_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every (frame, pair) angle, float32.

    Returns:
        Two tensors `[T, rotary_size / 2]`; frame 0 has angle 0.
    """
    pair = torch.arange(0, rotary_size, 2, device=device, dtype=torch.float32)
    angles = torch.arange(frames, device=device, dtype=torch.float32)[:, None] / ROTARY_BASE ** (pair / rotary_size)
    return angles.cos(), angles.sin()


def rotate_interleaved(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i+1) of the first half of every head; the second half passes through.

    Args:
        states: `[B, heads, T, D]`, D the width of a head.
        cos: `[T, D / 4]`, in the dtype of `states`.
        sin: `[T, D / 4]`, in the dtype of `states`.
    """
    rotary_size = 2 * cos.shape[-1]
    rotated, passed = states[..., :rotary_size], states[..., rotary_size:]
    even, odd = rotated[..., 0::2], rotated[..., 1::2]
    rotated = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((rotated, passed), dim=-1)


def padding_mask(frame_mask: Tensor, implementation: str, dtype: torch.dtype) -> Tensor | None:
    """The mask with which an attention implementation of Transformers ignores padding; None = no padding.

    Args:
        frame_mask: bool `[B, T]`, True where a frame is valid.
        implementation: `sdpa`, `eager` or a flash attention.
        dtype: of the attention scores.
    """
    # Reading values would break a compiled graph, and would make the host wait for an accelerator.
    if frame_mask.device.type == "cpu" and not torch.compiler.is_compiling() and bool(frame_mask.all()):
        return None
    if "flash" in implementation:
        return frame_mask
    keys = frame_mask[:, None, None]
    if implementation == "eager":
        return torch.zeros_like(keys, dtype=dtype).masked_fill(~keys, torch.finfo(dtype).min)
    return keys


class ArkAsrEncoderAttention(nn.Module):
    """Bidirectional self-attention; keys have no bias (Whisper's convention)."""

    is_causal = False

    def __init__(self, config: ArkAsrConfig) -> None:
        super().__init__()
        width = config.whisper_config.d_model
        self.config = config
        self.heads = config.whisper_config.encoder_attention_heads
        self.scaling = (width // self.heads) ** -0.5
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor, rotation: Rotation, key_mask: Tensor | None) -> Tensor:
        """Attend over `hidden` `[B, T, d]`, d the width of the encoder; `key_mask` comes from `padding_mask`."""
        batch, frames, width = hidden.shape
        shape = (batch, frames, self.heads, width // self.heads)
        query = self.q_proj(hidden).view(shape).transpose(1, 2)
        key = self.k_proj(hidden).view(shape).transpose(1, 2)
        value = self.v_proj(hidden).view(shape).transpose(1, 2)
        if rotation is not None:
            query, key = rotate_interleaved(query, *rotation), rotate_interleaved(key, *rotation)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        attended, _ = attend(self, query, key, value, key_mask, dropout=0.0, scaling=self.scaling)
        return self.out_proj(attended.reshape(batch, frames, width))


class ArkAsrEncoderLayer(GradientCheckpointingLayer):
    """Pre-norm attention and feed-forward, as in Whisper."""

    def __init__(self, config: ArkAsrConfig) -> None:
        super().__init__()
        width, inner_width = config.whisper_config.d_model, config.whisper_config.encoder_ffn_dim
        self.self_attn = ArkAsrEncoderAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, inner_width)
        self.fc2 = nn.Linear(inner_width, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, hidden: Tensor, rotation: Rotation, key_mask: Tensor | None) -> Tensor:
        """Map `[B, T, d]` to `[B, T, d]`, d the width of the encoder."""
        hidden = hidden + self.self_attn(self.self_attn_layer_norm(hidden), rotation, key_mask)
        hidden = hidden + self.fc2(F.gelu(self.fc1(self.final_layer_norm(hidden))))
        if hidden.dtype == torch.float16:
            hidden = hidden.clamp(-FLOAT16_CEILING, FLOAT16_CEILING)
        return hidden


class WhisperPositions(nn.Module):
    """Whisper's absolute positions of encoder frames: a table `[T, d]` that is saved and not trained."""

    weight: Tensor

    def __init__(self, frames: int, width: int) -> None:
        super().__init__()
        # A buffer and not a parameter: a stage may make all parameters of the encoder trainable.
        self.register_buffer("weight", sinusoids(frames, width))

    def forward(self, hidden: Tensor) -> Tensor:
        """Add positions to `hidden` `[B, T, d]`.

        Raises:
            ValueError: there are more frames than positions.
        """
        frames = hidden.shape[1]
        if frames > len(self.weight):
            raise ValueError(f"the audio has {frames} encoder frames, the encoder has {len(self.weight)} positions")
        return hidden + self.weight[:frames].to(hidden.dtype)


class ArkAsrWhisperEncoder(nn.Module):
    """Convolutions and layers over log-mel frames; parameter names as in the published checkpoints."""

    def __init__(self, config: ArkAsrConfig) -> None:
        super().__init__()
        sizes = config.whisper_config
        self.config = config
        self.embed_positions = None if config.use_rope else WhisperPositions(sizes.max_source_positions, sizes.d_model)
        self.conv1 = nn.Conv1d(sizes.num_mel_bins, sizes.d_model, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(sizes.d_model, sizes.d_model, kernel_size=3, stride=2, padding=1)
        self.layers = nn.ModuleList(ArkAsrEncoderLayer(config) for _ in range(sizes.encoder_layers))

    def forward(self, mel: Tensor, mel_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode `mel` `[B, mels, T]`; valid frames are True in `mel_mask` `[B, T]`.

        Returns:
            Frames `[B, (T + 1) // 2, d]`, d the width of the encoder, zero at padding, and their bool mask
            `[B, (T + 1) // 2]`.
        """
        frame_mask = mel_mask[:, ::2]
        hidden = F.gelu(self.conv1(mel * mel_mask[:, None])) * mel_mask[:, None]
        hidden = F.gelu(self.conv2(hidden)).transpose(1, 2)
        rotation = None
        if self.embed_positions is None:
            rotation = self._rotation(hidden)
        else:
            hidden = self.embed_positions(hidden)
        key_mask = padding_mask(frame_mask, self.config._attn_implementation, hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, rotation, key_mask)
        return hidden * frame_mask[..., None], frame_mask

    def _rotation(self, hidden: Tensor) -> Rotation:
        sizes = self.config.whisper_config
        rotary_size = sizes.d_model // sizes.encoder_attention_heads // 2
        cos, sin = interleaved_rotary_table(hidden.shape[1], rotary_size, hidden.device)
        return cos.to(hidden.dtype), sin.to(hidden.dtype)


class ArkAsrAudioEncoder(nn.Module):
    """Encoder, norm, merge of `merge_factor` frames, and the adapter to the decoder's width."""

    def __init__(self, config: ArkAsrConfig) -> None:
        super().__init__()
        width = config.whisper_config.d_model
        self.merge_factor = config.merge_factor
        self.whisper = ArkAsrWhisperEncoder(config)
        self.layer_norm = nn.LayerNorm(width)
        self.adapting = nn.Sequential(
            nn.Linear(width * self.merge_factor, 2 * config.hidden_size),
            ACT2FN[config.mlp_adapter_act],
            nn.Linear(2 * config.hidden_size, config.hidden_size),
        )

    def forward(self, mel: Tensor, mel_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embed `mel` `[B, mels, T]`; valid frames are True in `mel_mask` `[B, T]`.

        Frames at the end that do not fill a token are dropped. A clip always has at least one token.

        Returns:
            Embeddings `[B, N, H]` and the number of valid ones per clip, int64 `[B]`.
        """
        frames, frame_mask = self.whisper(mel, mel_mask)
        frames = self.layer_norm(frames) * frame_mask[..., None]
        batch, count, width = frames.shape
        missing = max(self.merge_factor - count, 0)
        frames = F.pad(frames, (0, 0, 0, missing))
        tokens = frames.shape[1] // self.merge_factor
        merged = frames[:, : tokens * self.merge_factor].reshape(batch, tokens, width * self.merge_factor)
        counts = (frame_mask.sum(1) // self.merge_factor).clamp(min=1)
        return self.adapting(merged), counts
