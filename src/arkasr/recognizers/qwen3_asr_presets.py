"""Sizes of teachers built from nothing, and the words of their prompt. A preset is a set of config fields."""

from typing import Any

PROMPT_WORDS = ("system", "user", "assistant", "language English", "language Chinese")
TEACHER_PRESETS: dict[str, dict[str, Any]] = {
    "qwen3-asr-tiny": {
        "text_config": {
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 32,
            "intermediate_size": 352,
            "initializer_range": 0.08,
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        "audio_config": {
            "num_mel_bins": 80,
            "d_model": 128,
            "encoder_layers": 3,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 512,
            "initializer_range": 0.08,
            "output_dim": 128,
            "downsample_hidden_size": 24,
        },
    },
    "qwen3-asr-1.7b": {
        "text_config": {
            "hidden_size": 2048,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 6144,
            "max_position_embeddings": 65_536,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        },
        "audio_config": {
            "num_mel_bins": 128,
            "d_model": 1024,
            "encoder_layers": 24,
            "encoder_attention_heads": 16,
            "encoder_ffn_dim": 4096,
            "output_dim": 2048,
        },
    },
}
