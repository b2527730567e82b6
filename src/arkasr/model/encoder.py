"""The audio encoder of Ark-ASR: log-mel frames in, one embedding of the decoder's width per 80 ms out.

Two convolutions, pre-norm Transformer layers with a partial, interleaved rotary embedding, a norm, a merge of four
frames, and a two-layer map (specification: ark-asr-checkpoint, section 3). Padding is masked at every step, so the
embeddings of a clip do not depend on what else is in its batch. Knows nothing of text.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperConfig
from transformers.activations import ACT2FN

from arkasr.model.config import ArkAsrConfig

ROTARY_BASE = 10_000.0
FLOAT16_CEILING = 65_504.0 - 1_000.0


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
        states: `[B, heads, T, D]`.
        cos: `[T, D / 4]`, in the dtype of `states`.
        sin: `[T, D / 4]`, in the dtype of `states`.
    """
    rotary_size = 2 * cos.shape[-1]
    rotated, passed = states[..., :rotary_size], states[..., rotary_size:]
    even, odd = rotated[..., 0::2], rotated[..., 1::2]
    rotated = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((rotated, passed), dim=-1)


class ArkAsrEncoderAttention(nn.Module):
    """Bidirectional self-attention; keys have no bias (Whisper's convention)."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.heads = config.encoder_attention_heads
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.k_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, key_mask: Tensor | None) -> Tensor:
        """Attend over `hidden` `[B, T, d]`; `key_mask` is bool `[B, 1, 1, T]`, True where a frame is real."""
        batch, frames, width = hidden.shape
        shape = (batch, frames, self.heads, width // self.heads)
        query = rotate_interleaved(self.q_proj(hidden).view(shape).transpose(1, 2), cos, sin)
        key = rotate_interleaved(self.k_proj(hidden).view(shape).transpose(1, 2), cos, sin)
        value = self.v_proj(hidden).view(shape).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask)
        return self.out_proj(attended.transpose(1, 2).reshape(batch, frames, width))


class ArkAsrEncoderLayer(nn.Module):
    """Pre-norm attention and feed-forward, as in Whisper."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.self_attn = ArkAsrEncoderAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, key_mask: Tensor | None) -> Tensor:
        """Map `[B, T, d]` to `[B, T, d]`."""
        hidden = hidden + self.self_attn(self.self_attn_layer_norm(hidden), cos, sin, key_mask)
        hidden = hidden + self.fc2(F.gelu(self.fc1(self.final_layer_norm(hidden))))
        if hidden.dtype == torch.float16:
            hidden = hidden.clamp(-FLOAT16_CEILING, FLOAT16_CEILING)
        return hidden


class ArkAsrWhisperEncoder(nn.Module):
    """Convolutions and layers over log-mel frames; parameter names as in the published checkpoints."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.rotary_size = config.d_model // config.encoder_attention_heads // 2
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.d_model, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, kernel_size=3, stride=2, padding=1)
        self.layers = nn.ModuleList(ArkAsrEncoderLayer(config) for _ in range(config.encoder_layers))

    def forward(self, mel: Tensor, mel_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode `mel` `[B, mels, T]` whose real frames are True in `mel_mask` `[B, T]`.

        Returns:
            Frames `[B, (T + 1) // 2, d]`, zero where not real, and their bool mask `[B, (T + 1) // 2]`.
        """
        frame_mask = mel_mask[:, ::2]
        hidden = F.gelu(self.conv1(mel * mel_mask[:, None])) * mel_mask[:, None]
        hidden = F.gelu(self.conv2(hidden)).transpose(1, 2)
        cos, sin = interleaved_rotary_table(hidden.shape[1], self.rotary_size, hidden.device)
        cos, sin = cos.to(hidden.dtype), sin.to(hidden.dtype)
        key_mask = None if bool(frame_mask.all()) else frame_mask[:, None, None]
        for layer in self.layers:
            hidden = layer(hidden, cos, sin, key_mask)
        return hidden * frame_mask[..., None], frame_mask


class ArkAsrAudioEncoder(nn.Module):
    """Encoder, norm, merge of `merge_factor` frames, and the map to the decoder's width."""

    def __init__(self, config: ArkAsrConfig) -> None:
        super().__init__()
        width = config.whisper_config.d_model
        self.merge_factor = config.merge_factor
        self.whisper = ArkAsrWhisperEncoder(config.whisper_config)
        self.layer_norm = nn.LayerNorm(width)
        self.adapting = nn.Sequential(
            nn.Linear(width * self.merge_factor, 2 * config.hidden_size),
            ACT2FN[config.mlp_adapter_act],
            nn.Linear(2 * config.hidden_size, config.hidden_size),
        )

    def forward(self, mel: Tensor, mel_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embed `mel` `[B, mels, T]` whose real frames are True in `mel_mask` `[B, T]`.

        Frames that do not fill a whole token are dropped, except that a clip always has one token.

        Returns:
            Embeddings `[B, N, H]` and the number of real ones per clip, int64 `[B]`.
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
