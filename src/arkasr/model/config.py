"""The configuration of an Ark-ASR model: Qwen2's fields at the top level, the audio encoder's in a Whisper config.

The published checkpoints have this layout, so their `config.json` loads unchanged.
"""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import Qwen2Config, WhisperConfig


@strict
class ArkAsrConfig(Qwen2Config):
    """Configuration of `ArkAsrForConditionalGeneration`; all other fields are those of `Qwen2Config`.

    Attributes:
        whisper_config: the audio encoder, in Whisper's terms (`d_model`, `encoder_layers`, `num_mel_bins`, …).
        audio_token_id: the placeholder in `input_ids`, replaced by one merged audio embedding.
        merge_factor: encoder frames concatenated into one audio token.
        use_rope: True = rotary embeddings in the encoder, as in the published checkpoints. False = Whisper's absolute
            positions and no rotation, so that Whisper's weights fit.
        adapter_type: the adapter from encoder to decoder; only "mlp" exists.
        mlp_adapter_act: activation between the adapter's two linear layers.
        max_whisper_length: encoder frames of the longest training clip (30 s).
        spec_aug: kept for the published files and not used; training does augmentation.
    """

    model_type = "arkasr"
    sub_configs: ClassVar[dict[str, Any]] = {"whisper_config": WhisperConfig}

    whisper_config: Any = None
    audio_token_id: int = 151663
    merge_factor: int = 4
    use_rope: bool = True
    adapter_type: str = "mlp"
    mlp_adapter_act: str = "gelu"
    max_whisper_length: int = 1500
    spec_aug: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if self.whisper_config is None:
            self.whisper_config = WhisperConfig()
        elif isinstance(self.whisper_config, dict):
            self.whisper_config = WhisperConfig(**self.whisper_config)
        if self.adapter_type != "mlp":
            raise ValueError(f"adapter_type {self.adapter_type!r} is unknown; Ark-ASR checkpoints use 'mlp'")
        kwargs.pop("auto_map", None)  # names remote code, which saved folders do not contain
        super().__post_init__(**kwargs)
