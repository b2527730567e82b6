"""Writing of the two checkpoint layouts: that of Transformers and that of the published checkpoints.

Both use the same weight names. The published layout adds a flat config with `rope_theta`, the class names of the remote
code, Whisper's positions even if the encoder does not use them, and a copy of the tied head, which is never read
(specification ark-asr-checkpoint, sections 1 and 2).
"""

import json
from pathlib import Path
from typing import Any

from transformers.models.whisper.modeling_whisper import sinusoids

from arkasr.model.model import ArkAsrForConditionalGeneration
from arkasr.model.processor import AUDIO_TOKEN, ArkAsrProcessor

PUBLISHED_ARCHITECTURE = "ArkasrForConditionalGeneration"
REMOTE_CODE = {
    "AutoConfig": "configuration_arkasr.ArkasrConfig",
    "AutoModelForCausalLM": f"modeling_arkasr.{PUBLISHED_ARCHITECTURE}",
    "AutoProcessor": "processing_arkasr.ArkasrProcessor",
}


def save_published(
    model: ArkAsrForConditionalGeneration, processor: ArkAsrProcessor, folder: Path, max_shard_size: str
) -> None:
    """Write the published layout into an empty folder."""
    whisper = model.config.whisper_config
    weights = dict(model.state_dict())
    positions = sinusoids(whisper.max_source_positions, whisper.d_model).to(model.dtype)
    weights.setdefault("audio_encoder.whisper.embed_positions.weight", positions)
    # A clone, because `save_pretrained` leaves out tensors that share memory.
    weights["lm_head.weight"] = model.lm_head.weight.detach().clone()
    model.save_pretrained(folder, state_dict=weights, max_shard_size=max_shard_size)
    processor.tokenizer.save_pretrained(folder)
    processor.feature_extractor.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(processor.chat_template, encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _write_json(folder / "config.json", _published_config(config))
    _write_json(
        folder / "processor_config.json",
        {
            "auto_map": {"AutoProcessor": REMOTE_CODE["AutoProcessor"]},
            "processor_class": "ArkasrProcessor",
            "merge_factor": processor.merge_factor,
            "audio_token": AUDIO_TOKEN,
            "audio_dtype": "float32",
            "feature_extractor_config": {},
            "tokenizer_config": {"padding_side": "left"},
            **({"leading_blank": True} if processor.leading_blank else {}),
        },
    )


def save_transformers(
    model: ArkAsrForConditionalGeneration, processor: ArkAsrProcessor, folder: Path, max_shard_size: str
) -> None:
    """Write a plain `from_pretrained` folder into an empty folder."""
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    processor.save_pretrained(folder)


def _published_config(config: dict[str, Any]) -> dict[str, Any]:
    fields = {name: value for name, value in config.items() if name not in ("rope_parameters", "layer_types", "dtype")}
    rope = dict(config["rope_parameters"])
    rope_theta = rope.pop("rope_theta")
    if rope != {"rope_type": "default"}:
        fields["rope_scaling"] = rope
    return fields | {
        "architectures": [PUBLISHED_ARCHITECTURE],
        "auto_map": {name: REMOTE_CODE[name] for name in ("AutoConfig", "AutoModelForCausalLM")},
        "rope_theta": rope_theta,
        "torch_dtype": config["dtype"],
    }


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


LAYOUTS = {"published": save_published, "transformers": save_transformers}
