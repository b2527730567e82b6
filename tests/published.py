"""Writes a checkpoint in the published layout with random weights.

All keys, shapes, fields and tokens are those of the published checkpoints. It does not use arkasr, so that loading is
tested independently of it.
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

FULL_WHISPER = {
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "num_mel_bins": 128,
    "max_source_positions": 1500,
    "activation_function": "gelu",
}
SIZES = {
    "0.6b": {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "vocab_size": 163_958,
        "whisper_config": FULL_WHISPER,
    },
    "3b": {
        "hidden_size": 2048,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "intermediate_size": 11008,
        "vocab_size": 151_936,
        "whisper_config": FULL_WHISPER,
    },
}
SMALL_WHISPER = {
    "d_model": 80,
    "encoder_layers": 3,
    "encoder_attention_heads": 5,
    "encoder_ffn_dim": 160,
    "num_mel_bins": 128,
    "max_source_positions": 1500,
    "activation_function": "gelu",
}
# Numbers of heads and vocabularies are unchanged. The decoder's head size is 8 and 16 instead of 64 and 128.
SCALED = {
    "0.6b": SIZES["0.6b"]
    | {"hidden_size": 112, "num_hidden_layers": 3, "intermediate_size": 320, "whisper_config": SMALL_WHISPER},
    "3b": SIZES["3b"]
    | {"hidden_size": 256, "num_hidden_layers": 2, "intermediate_size": 640, "whisper_config": SMALL_WHISPER},
}

BASE_TOKENS = 151_643
INSTRUCTION_IDS = {"Please": 5501, "Ġtrans": 1356, "cribe": 3114, "Ġthis": 419, "Ġaudio": 7699, ".": 13}
MERGES = [
    *[("P", "l"), ("e", "a"), ("Pl", "ea"), ("s", "e"), ("Plea", "se"), ("Ġ", "t"), ("Ġt", "r"), ("a", "n")],
    *[("Ġtr", "an"), ("Ġtran", "s"), ("c", "r"), ("i", "b"), ("cr", "ib"), ("crib", "e"), ("Ġt", "h")],
    *[("i", "s"), ("Ġth", "is"), ("Ġ", "a"), ("u", "d"), ("Ġa", "ud"), ("i", "o"), ("Ġaud", "io")],
]
SPECIAL_TOKENS = {
    151_643: "<|endoftext|>",
    151_644: "<|im_start|>",
    151_645: "<|im_end|>",
    151_665: "<|user|>",
    151_666: "<|begin_of_audio|>",
    151_667: "<|end_of_audio|>",
    151_668: "<|assistant|>",
    151_669: "<|system|>",
}
MARKERS = [
    *["object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start", "quad_end"],
    *["vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"],
]
# Not flagged special, so skip_special_tokens keeps them.
PLAIN_TOKENS = {
    **{151_646 + index: f"<|{name}|>" for index, name in enumerate(MARKERS)},
    151_657: "<tool_call>",
    151_658: "</tool_call>",
    151_659: "<|fim_prefix|>",
    151_660: "<|fim_middle|>",
    151_661: "<|fim_suffix|>",
    151_662: "<|fim_pad|>",
    151_663: "<|audio|>",
    151_664: "<|file_sep|>",
}
FIRST_CODEC_TOKEN = 151_670


def shapes(sizes):
    """The shape of every key (section 2)."""
    hidden, vocabulary = sizes["hidden_size"], sizes["vocab_size"]
    values = hidden // sizes["num_attention_heads"] * sizes["num_key_value_heads"]
    whisper = sizes["whisper_config"]
    width, inner, mels = whisper["d_model"], whisper["encoder_ffn_dim"], whisper["num_mel_bins"]
    shape_of = {}

    def linear(name, outputs, inputs, bias=True):
        shape_of[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shape_of[f"{name}.bias"] = (outputs,)

    def norm(name, size, bias):
        shape_of[f"{name}.weight"] = (size,)
        if bias:
            shape_of[f"{name}.bias"] = (size,)

    encoder = "audio_encoder.whisper"
    shape_of |= {f"{encoder}.conv1.weight": (width, mels, 3), f"{encoder}.conv1.bias": (width,)}
    shape_of |= {f"{encoder}.conv2.weight": (width, width, 3), f"{encoder}.conv2.bias": (width,)}
    shape_of[f"{encoder}.embed_positions.weight"] = (whisper["max_source_positions"], width)
    for layer in range(whisper["encoder_layers"]):
        name = f"{encoder}.layers.{layer}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{name}.self_attn.{projection}", width, width, bias=projection != "k_proj")
        norm(f"{name}.self_attn_layer_norm", width, bias=True)
        linear(f"{name}.fc1", inner, width)
        linear(f"{name}.fc2", width, inner)
        norm(f"{name}.final_layer_norm", width, bias=True)
    norm("audio_encoder.layer_norm", width, bias=True)
    linear("audio_encoder.adapting.0", 2 * hidden, 4 * width)
    linear("audio_encoder.adapting.2", hidden, 2 * hidden)
    shape_of["model.embed_tokens.weight"] = (vocabulary, hidden)
    for layer in range(sizes["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        linear(f"{name}.self_attn.q_proj", hidden, hidden)
        linear(f"{name}.self_attn.k_proj", values, hidden)
        linear(f"{name}.self_attn.v_proj", values, hidden)
        linear(f"{name}.self_attn.o_proj", hidden, hidden, bias=False)
        for projection in ("gate_proj", "up_proj"):
            linear(f"{name}.mlp.{projection}", sizes["intermediate_size"], hidden, bias=False)
        linear(f"{name}.mlp.down_proj", hidden, sizes["intermediate_size"], bias=False)
        norm(f"{name}.input_layernorm", hidden, bias=False)
        norm(f"{name}.post_attention_layernorm", hidden, bias=False)
    norm("model.norm", hidden, bias=False)
    shape_of["lm_head.weight"] = (vocabulary, hidden)
    return shape_of


def random_weights(sizes, seed=0):
    """A tensor for every key. Matrices preserve the scale of their input, so every layer has an effect."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes(sizes).items():
        if name == "lm_head.weight":
            continue
        noise = torch.randn(shape, generator=generator)
        if "norm" in name:
            weights[name] = noise * 0.1 + (1.0 if name.endswith("weight") else 0.0)
        elif name.endswith("bias"):
            weights[name] = noise * 0.1
        elif "embed" in name:
            weights[name] = noise * 0.05
        else:
            weights[name] = noise / math.sqrt(math.prod(shape[1:]))
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    return weights


def config(sizes):
    """The content of config.json (section 1)."""
    return {
        "architectures": ["ArkasrForConditionalGeneration"],
        "auto_map": {
            "AutoConfig": "configuration_arkasr.ArkasrConfig",
            "AutoModelForCausalLM": "modeling_arkasr.ArkasrForConditionalGeneration",
        },
        "model_type": "arkasr",
        **sizes,
        "max_position_embeddings": 32_768,
        "rope_theta": 1_000_000.0,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": 151_643,
        "pad_token_id": 151_643,
        "eos_token_id": 151_645,
        "audio_token_id": 151_663,
        "adapter_type": "mlp",
        "merge_factor": 4,
        "spec_aug": False,
        "use_rope": True,
        "max_whisper_length": 1500,
        "mlp_adapter_act": "gelu",
        "torch_dtype": "float32",
        "transformers_version": "4.57.3",
    }


def write_tokenizer(folder, codec_tokens):
    """Write a tokenizer with the ids of section 4; the other base tokens are fillers."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in MERGES)]
    others = iter([piece for piece in pieces if piece not in INSTRUCTION_IDS])
    instruction = {token_id: token for token, token_id in INSTRUCTION_IDS.items()}
    base = {
        instruction.get(token_id) or next(others, None) or f"filler{token_id}": token_id
        for token_id in range(BASE_TOKENS)
    }
    tokenizer = Tokenizer(models.BPE(vocab=base, merges=MERGES))
    words_and_digits = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words_and_digits), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    codec = [f"<|bicodec_semantic_{n}|>" for n in range(8192)] + [f"<|bicodec_global_{n}|>" for n in range(4096)]
    added = PLAIN_TOKENS | SPECIAL_TOKENS
    added |= {FIRST_CODEC_TOKEN + n: token for n, token in enumerate(codec[:codec_tokens])}
    tokenizer.add_tokens(
        [
            AddedToken(added[token_id], special=token_id in SPECIAL_TOKENS, normalized=False)
            for token_id in sorted(added)
        ]
    )
    assert {token: tokenizer.token_to_id(token) for token in INSTRUCTION_IDS} == INSTRUCTION_IDS
    assert all(tokenizer.token_to_id(token) == token_id for token_id, token in added.items())
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "model_max_length": 131_072,
        "errors": "replace",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_processor(folder):
    extractor = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": 128,
        "sampling_rate": 16_000,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": 30,
        "n_samples": 480_000,
        "nb_max_frames": 3000,
        "padding_side": "right",
        "padding_value": 0.0,
        "dither": 0.0,
        "return_attention_mask": False,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor))
    processor = {
        "processor_class": "ArkasrProcessor",
        "auto_map": {"AutoProcessor": "processing_arkasr.ArkasrProcessor"},
        "merge_factor": 4,
        "audio_token": "<|audio|>",
        "audio_dtype": "float32",
        "feature_extractor_config": extractor,
        "tokenizer_config": {"padding_side": "left"},
    }
    (folder / "processor_config.json").write_text(json.dumps(processor))
    (folder / "chat_template.jinja").write_text("{{ raise_exception('the template of the remote code') }}")


def write_weights(folder, weights, shards=1):
    """Write one file, or several with an index."""
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(weights)
    per_shard = -(-len(names) // shards)
    index = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in names[shard * per_shard : (shard + 1) * per_shard]}
        save_file(part, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in weights.values())
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)


def write_checkpoint(folder, sizes, *, lm_head, shards=1, seed=0):
    """Write all files of a checkpoint; returns its weights, including `lm_head`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(sizes), indent=2))
    generation = {"bos_token_id": 151_643, "pad_token_id": 151_643, "eos_token_id": [151_645, 151_643]}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    write_tokenizer(folder, codec_tokens=max(sizes["vocab_size"] - 151_936, 0) and 12_288)
    write_processor(folder)
    weights = random_weights(sizes, seed)
    stored = {name: tensor for name, tensor in weights.items() if lm_head or name != "lm_head.weight"}
    write_weights(folder, stored, shards)
    return weights
