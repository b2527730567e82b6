"""The encoder of a Whisper model, from which a new Ark-ASR model starts.

In: the name of a trained model. Out: its weights, and the config fields that an Ark-ASR model needs to hold them.
"""

from typing import Any

from transformers import PreTrainedConfig, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from arkasr.data.audio import LONGEST_CLIP_SECONDS, SAMPLE_RATE
from arkasr.errors import InputError
from arkasr.model.frames import ENCODER_FRAME_SAMPLES
from arkasr.model.model import ArkAsrForConditionalGeneration
from arkasr.recognizers.load import load_recognizer

ENCODER_SIZES = (
    *("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim"),
    *("num_mel_bins", "max_source_positions"),
)


def sizes_of_encoder(name: str, config: PreTrainedConfig) -> dict[str, Any]:
    """The fields of `ArkAsrConfig` for the encoder of a Whisper model.

    Args:
        name: of the model, for messages.
        config: its config.

    Raises:
        InputError: it is no Whisper model, its activation is not that of Ark-ASR, or its window is shorter than 30 s.
    """
    if not isinstance(config, WhisperConfig):
        raise InputError(
            f"model {name}: is of type {config.model_type!r}; the encoder of a new Ark-ASR model comes from a Whisper "
            "model"
        )
    if config.activation_function != "gelu":
        raise InputError(
            f"model {name}: its encoder's activation is {config.activation_function!r}, that of Ark-ASR is 'gelu'; "
            "take another encoder"
        )
    window_seconds = config.max_source_positions * ENCODER_FRAME_SAMPLES / SAMPLE_RATE
    if window_seconds < LONGEST_CLIP_SECONDS:
        raise InputError(
            f"model {name}: its window is {window_seconds:g} s, Ark-ASR takes clips of up to "
            f"{LONGEST_CLIP_SECONDS:g} s and pads none to a window; take the model that it was converted from"
        )
    return {"use_rope": False, "whisper_config": {field: getattr(config, field) for field in ENCODER_SIZES}}


def load_encoder(name: str, revision: str | None = None) -> tuple[dict[str, Any], WhisperEncoder]:
    """The encoder of a Whisper model, float32 on the CPU, and the fields of `ArkAsrConfig` for it.

    Args:
        name: a folder, or a repository on the model hub.
        revision: commit, tag or branch of a hub repository.

    Raises:
        InputError: the name has no complete Whisper model.
    """
    model = load_recognizer(name, revision=revision).model
    return sizes_of_encoder(name, model.config), model.model.encoder


def copy_encoder(encoder: WhisperEncoder, model: ArkAsrForConditionalGeneration) -> None:
    """Copy Whisper's encoder into a model of the same sizes; its last norm becomes the norm before the adapter."""
    weights = dict(encoder.state_dict())
    norm = {name: weights.pop(f"layer_norm.{name}") for name in ("weight", "bias")}
    model.audio_encoder.whisper.load_state_dict(weights)
    model.audio_encoder.layer_norm.load_state_dict(norm)
