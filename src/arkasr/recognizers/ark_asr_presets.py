"""Sizes of students built from nothing. A preset is a set of config fields; the classes are the same at every size."""

from typing import Any

STUDENT_PRESETS: dict[str, dict[str, Any]] = {
    "ark-asr-tiny": {
        "hidden_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "intermediate_size": 256,
        "initializer_range": 0.1,
        "max_position_embeddings": 2048,
        "rope_theta": 10_000.0,
        "whisper_config": {
            "num_mel_bins": 80,
            "d_model": 96,
            "encoder_layers": 3,
            "encoder_attention_heads": 3,
            "encoder_ffn_dim": 384,
        },
    },
    "ark-asr-0.6b": {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "max_position_embeddings": 32_768,
        "rope_theta": 1_000_000.0,
        "whisper_config": {
            "num_mel_bins": 128,
            "d_model": 1280,
            "encoder_layers": 32,
            "encoder_attention_heads": 20,
            "encoder_ffn_dim": 5120,
        },
    },
}
