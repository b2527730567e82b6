"""The fields that commands write beside those of the manifest: what an earlier one wrote in them is not passed on."""

from collections.abc import Iterable, Mapping
from typing import Any

# What a system made of a recording, or why it made nothing of it.
TRANSCRIPT = ("pred_text", "pred_text_raw", "pred_segments", "pred_flags", "error")
# Where the scored recording was, and its errors, which are no others' and hold for no other reference.
SCORED_TRANSCRIPT = (*TRANSCRIPT, "audio_path", "errors", "reference_tokens")
# Why a teacher's transcript is no label.
LABEL = (*SCORED_TRANSCRIPT, "dropped")


def without(fields: Mapping[str, Any], own: Iterable[str]) -> dict[str, Any]:
    """The fields of a line less those that the command is about to write, or to leave out."""
    return {name: value for name, value in fields.items() if name not in own}
