"""A reference implementation of Ark-ASR in float64: one utterance, no batch, no cache.

Follows the numerics of the published checkpoints formula by formula, and shares no code with `arkasr.model`.
"""

import torch


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def linear(x, weights, name):
    y = x @ weights[f"{name}.weight"].double().T
    return y + weights[f"{name}.bias"].double() if f"{name}.bias" in weights else y


def layer_norm(x, weights, name):
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / ((centred**2).mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"].double() + weights[f"{name}.bias"].double()


def rms_norm(x, weights, name):
    return x / ((x**2).mean(-1, keepdim=True) + 1e-6).sqrt() * weights[f"{name}.weight"].double()


def convolve(x, weights, name, stride):
    """x [channels, T]; kernel size 3, padded with one zero on each side."""
    kernel, bias = weights[f"{name}.weight"].double(), weights[f"{name}.bias"].double()
    padded = torch.cat((torch.zeros(len(x), 1).double(), x, torch.zeros(len(x), 1).double()), dim=1)
    starts = range(0, padded.shape[1] - 2, stride)
    return torch.stack([(kernel * padded[:, t : t + 3]).sum((1, 2)) + bias for t in starts], dim=1)


def attend(q, k, v, mask):
    """q, k, v [T, D]; mask [T, T], 0 or -inf."""
    return torch.softmax(q @ k.T / q.shape[1] ** 0.5 + mask, dim=-1) @ v


def rotate_interleaved(x):
    """x [T, D]: pairs (2i, 2i + 1) of the first half of the head, angle t / 10000^(2i / (D / 2))."""
    rotated, size = x.clone(), x.shape[1] // 2
    t = torch.arange(len(x)).double()
    for i in range(size // 2):
        angle = t / 10_000 ** (2 * i / size)
        a, b = x[:, 2 * i], x[:, 2 * i + 1]
        rotated[:, 2 * i] = a * angle.cos() - b * angle.sin()
        rotated[:, 2 * i + 1] = b * angle.cos() + a * angle.sin()
    return rotated


def rotate_halves(x, theta):
    """x [T, D]: Qwen2's pairs (i, i + D / 2), angle t / theta^(2i / D)."""
    rotated, half = x.clone(), x.shape[1] // 2
    t = torch.arange(len(x)).double()
    for i in range(half):
        angle = t / theta ** (2 * i / x.shape[1])
        a, b = x[:, i], x[:, i + half]
        rotated[:, i] = a * angle.cos() - b * angle.sin()
        rotated[:, i + half] = b * angle.cos() + a * angle.sin()
    return rotated


def audio_embeddings(weights, mel, heads, merge=4):
    """mel [mels, T] to [N, H]."""
    root = "audio_encoder.whisper"
    x = gelu(convolve(mel.double(), weights, f"{root}.conv1", 1))
    x = gelu(convolve(x, weights, f"{root}.conv2", 2)).T
    frames, width = x.shape
    size = width // heads
    no_mask = torch.zeros(frames, frames).double()
    for layer in range(sum(name.startswith(root) and name.endswith("fc1.weight") for name in weights)):
        name = f"{root}.layers.{layer}"
        normed = layer_norm(x, weights, f"{name}.self_attn_layer_norm")
        q, k, v = (linear(normed, weights, f"{name}.self_attn.{part}_proj") for part in "qkv")
        mixed = torch.zeros_like(x)
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            query, key = rotate_interleaved(q[:, part]), rotate_interleaved(k[:, part])
            mixed[:, part] = attend(query, key, v[:, part], no_mask)
        x = x + linear(mixed, weights, f"{name}.self_attn.out_proj")
        normed = layer_norm(x, weights, f"{name}.final_layer_norm")
        x = x + linear(gelu(linear(normed, weights, f"{name}.fc1")), weights, f"{name}.fc2")
    x = layer_norm(x, weights, "audio_encoder.layer_norm")
    x = torch.cat((x, torch.zeros(max(merge - frames, 0), width).double()))
    x = x[: len(x) // merge * merge].reshape(-1, merge * width)
    return linear(gelu(linear(x, weights, "audio_encoder.adapting.0")), weights, "audio_encoder.adapting.2")


def logits(weights, ids, audio, heads, kv_heads, audio_token_id, theta=1e6):
    """ids [L] with audio placeholders, audio [N, H] to [L, V]."""
    x = weights["model.embed_tokens.weight"][ids].double()
    x[ids == audio_token_id] = audio
    length, width = x.shape
    size, group = width // heads, heads // kv_heads
    causal = torch.full((length, length), -torch.inf).double().triu(1)
    for layer in range(sum(name.startswith("model.") and name.endswith("up_proj.weight") for name in weights)):
        name = f"model.layers.{layer}"
        normed = rms_norm(x, weights, f"{name}.input_layernorm")
        q, k, v = (linear(normed, weights, f"{name}.self_attn.{part}_proj") for part in "qkv")
        mixed = torch.zeros_like(x)
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            shared = slice(head // group * size, (head // group + 1) * size)
            query, key = rotate_halves(q[:, part], theta), rotate_halves(k[:, shared], theta)
            mixed[:, part] = attend(query, key, v[:, shared], causal)
        x = x + linear(mixed, weights, f"{name}.self_attn.o_proj")
        normed = rms_norm(x, weights, f"{name}.post_attention_layernorm")
        gate, up = linear(normed, weights, f"{name}.mlp.gate_proj"), linear(normed, weights, f"{name}.mlp.up_proj")
        x = x + linear(gate * torch.sigmoid(gate) * up, weights, f"{name}.mlp.down_proj")
    return rms_norm(x, weights, "model.norm") @ weights["model.embed_tokens.weight"].double().T
