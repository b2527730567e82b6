"""The settings of a live session. In: a `session.update` event, as OpenAI's client sends it. Out: `LiveSettings`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from arkasr.data.languages import canonical_language
from arkasr.errors import InputError
from arkasr.serve.errors import ApiError

RATES = (24_000, 16_000)
SHORTEST_PAUSE_MS, LONGEST_PAUSE_MS = 100, 10_000


@dataclass(frozen=True)
class LiveSettings:
    """How a stream is heard.

    Attributes:
        model: name; None = the first of the server.
        language: by name; None = unknown.
        rate: samples per second that the client sends, 16-bit mono.
        pause_ms: silence that ends an utterance.
    """

    model: str | None = None
    language: str | None = None
    rate: int = RATES[0]
    pause_ms: int = 500

    def description(self) -> dict[str, Any]:
        """The session as OpenAI describes it."""
        return {
            "type": "transcription",
            "object": "realtime.transcription_session",
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": self.rate},
                    "transcription": {"model": self.model, "language": self.language},
                    "turn_detection": {"type": "server_vad", "silence_duration_ms": self.pause_ms},
                }
            },
        }


def updated(settings: LiveSettings, session: Any) -> LiveSettings:
    """The settings after an update; keys that are not given stay as they are.

    Args:
        settings: before.
        session: of the event.

    Raises:
        ApiError: 400, a key is unknown or has a value that this server cannot obey.
    """
    session = _object(session, "session", {"type", "audio", "include"})
    _only(session.get("type", "transcription"), ("transcription",), "session.type")
    if session.get("include"):
        raise _bad("session.include", "live sessions have no log-probabilities; leave `include` out")
    audio = _object(session.get("audio"), "session.audio", {"input"})
    given = _object(
        audio.get("input"), "session.audio.input", {"format", "transcription", "turn_detection", "noise_reduction"}
    )
    if given.get("noise_reduction"):
        raise _bad("session.audio.input.noise_reduction", "this server has no noise reduction; leave it out")
    settings = _with_format(settings, given.get("format"))
    settings = _with_transcription(settings, given.get("transcription"))
    if "turn_detection" in given:
        settings = _with_turn_detection(settings, given["turn_detection"])
    return settings


def _with_format(settings: LiveSettings, given: Any) -> LiveSettings:
    form = _object(given, "session.audio.input.format", {"type", "rate"})
    _only(form.get("type", "audio/pcm"), ("audio/pcm",), "session.audio.input.format.type")
    rate = form.get("rate", settings.rate)
    _only(rate, RATES, "session.audio.input.format.rate")
    return replace(settings, rate=rate)


def _with_transcription(settings: LiveSettings, given: Any) -> LiveSettings:
    name = "session.audio.input.transcription"
    transcription = _object(given, name, {"model", "language", "prompt"})
    if transcription.get("prompt"):
        raise _bad(f"{name}.prompt", "this server does not take a prompt; leave it out")
    if language := transcription.get("language"):
        try:
            settings = replace(settings, language=canonical_language(str(language)))
        except InputError as error:
            raise _bad(f"{name}.language", str(error)) from error
    model = transcription.get("model") or settings.model
    if model is not None and not isinstance(model, str):
        raise _bad(f"{name}.model", "the model is a name")
    return replace(settings, model=model)


def _with_turn_detection(settings: LiveSettings, given: Any) -> LiveSettings:
    name = "session.audio.input.turn_detection"
    if given is None:
        raise _bad(name, "this server finds the pauses itself; leave `turn_detection` out")
    # The detector's own threshold and margin fit its model.
    turns = _object(given, name, {"type", "silence_duration_ms", "threshold", "prefix_padding_ms"})
    _only(turns.get("type", "server_vad"), ("server_vad",), f"{name}.type")
    pause = turns.get("silence_duration_ms") or settings.pause_ms
    if not isinstance(pause, int) or not SHORTEST_PAUSE_MS <= pause <= LONGEST_PAUSE_MS:
        raise _bad(
            f"{name}.silence_duration_ms", f"{pause!r}: give {SHORTEST_PAUSE_MS} to {LONGEST_PAUSE_MS} milliseconds"
        )
    return replace(settings, pause_ms=pause)


def _object(value: Any, name: str, known: set[str]) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _bad(name, f"{name} must be an object")
    for key in value:
        if key not in known:
            raise _bad(f"{name}.{key}", f"unknown key {key!r}; known are {', '.join(sorted(known))}")
    return value


def _only(value: Any, known: tuple[Any, ...], name: str) -> None:
    if value not in known:
        raise _bad(name, f"{name} is {value!r}; known are {', '.join(map(str, known))}")


def _bad(param: str, message: str) -> ApiError:
    return ApiError(400, message, param=param)
