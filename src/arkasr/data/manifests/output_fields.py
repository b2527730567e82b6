"""Output fields that commands write. A command drops the values of an earlier command before it writes its own."""

from collections.abc import Iterable, Mapping
from typing import Any

TRANSCRIPT_FIELDS = ("pred_text", "pred_text_raw", "pred_segments", "pred_flags", "error")
# Values of `pred_flags`.
LOOPING = "looping"
TRUNCATED = "truncated"
SCORED_FIELDS = (*TRANSCRIPT_FIELDS, "audio_path", "errors", "reference_tokens")
LABEL_FIELDS = (*SCORED_FIELDS, "dropped")


def drop_fields(fields: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The fields of a manifest line without those in `names`."""
    return {name: value for name, value in fields.items() if name not in names}
