"""The form of a transcription request for OpenAPI: it is read by hand, so FastAPI cannot describe it."""

from typing import Any

from arkasr.serve.options import GRANULARITIES, INCLUDABLE, RESPONSE_FORMATS

_FIELDS: dict[str, Any] = {
    "file": {"type": "string", "format": "binary", "description": "The recording, of any format that FFmpeg reads."},
    "model": {"type": "string", "description": "A name from /v1/models; without it, or whisper-1: the first of them."},
    "language": {
        "type": "string",
        "description": "Name or ISO 639-1 code; without it, the model detects the language.",
    },
    "prompt": {"type": "string", "description": "Text that came before, or words that may occur; for Whisper."},
    "response_format": {"type": "string", "enum": list(RESPONSE_FORMATS), "default": "json"},
    "temperature": {"type": "number", "minimum": 0, "maximum": 1, "default": 0},
    "stream": {
        "type": "boolean",
        "default": False,
        "description": "Send text as server-sent events; with verbose_json also segments.",
    },
    "chunking_strategy": {
        "type": "string",
        "enum": ["auto"],
        "description": "Recordings are cut at pauses in any case.",
    },
    "timestamp_granularities[]": {
        "type": "array",
        "items": {"type": "string", "enum": list(GRANULARITIES)},
        "description": "With verbose_json; words need a server with --word-times.",
    },
    "include[]": {
        "type": "array",
        "items": {"type": "string", "enum": list(INCLUDABLE)},
        "description": "logprobs with json, subtitles (srt and vtt) with verbose_json.",
    },
}
_EVENT = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": [*(f"transcript.text.{kind}" for kind in ("delta", "segment", "done")), "error"]},
        "data": {"type": "string", "description": "A JSON object whose `type` is the event."},
    },
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "The request is refused.", "content": {"application/json": {"schema": _ERROR}}}
}
_REASONS = {
    "400": "A field or the recording is not acceptable.",
    "401": "The API key is missing or wrong.",
    "404": "No such model.",
    "408": "The request stopped arriving.",
    "413": "The upload is too large.",
    "429": "Too many requests, or too large ones together, are in progress; Retry-After says when to come back.",
    "503": "The model cannot be loaded now. If others hold the memory, Retry-After says when to come back.",
    "507": "The server's disk is full.",
}
TRANSCRIPTION: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": _FIELDS,
                    "additionalProperties": False,
                }
            }
        },
    },
    "responses": {
        "200": {
            "description": "The transcript, in the response format asked for.",
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["text"],
                        "properties": {"text": {"type": "string"}},
                    }
                },
                "text/plain": {"schema": {"type": "string"}},
                "text/event-stream": {"schema": _EVENT},
            },
        }
    }
    | {
        status: {"description": reason, "content": {"application/json": {"schema": _ERROR}}}
        for status, reason in _REASONS.items()
    },
}
