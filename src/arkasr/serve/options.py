"""The form fields of a transcription request, checked.

In: names and values. Out: `Options`, or an `ApiError` that names the field.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from arkasr.data.languages import canonical_language
from arkasr.errors import InputError
from arkasr.serve.errors import ApiError

RESPONSE_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
GRANULARITIES = ("segment", "word")
INCLUDABLE = {"logprobs": "json", "subtitles": "verbose_json"}  # and the format that can hold it
SINGLE_FIELDS = (
    *("file", "model", "language", "prompt", "response_format", "temperature", "stream", "chunking_strategy"),
)
FIELDS = (*SINGLE_FIELDS, "timestamp_granularities", "timestamp_granularities[]", "include", "include[]")
LONGEST_SUBTITLE_SECONDS = 10.0
TRUE, FALSE = ("true", "1"), ("false", "0", "")


@dataclass(frozen=True)
class Options:
    """What a client asked for.

    Attributes:
        language: by name; None = not given.
        prompt: text that came before, or words that may occur; empty = none.
        temperature: of sampling, 0 to 1.
        response_format: one of `RESPONSE_FORMATS`.
        word_times: whether words with times are wanted.
        log_probabilities: whether those of the tokens are wanted.
        subtitles: whether they are wanted beside the segments.
        stream: whether to send parts as they are ready.
    """

    language: str | None
    prompt: str
    temperature: float
    response_format: str
    word_times: bool
    log_probabilities: bool
    subtitles: bool
    stream: bool

    @property
    def longest_piece_seconds(self) -> float | None:
        """Subtitles need short pieces; None = what the model takes."""
        has_subtitles = self.subtitles or self.response_format in ("srt", "vtt")
        return LONGEST_SUBTITLE_SECONDS if has_subtitles else None


def parse_options(fields: Sequence[tuple[str, str]]) -> Options:
    """Check the fields of a form, without the file and the model.

    Args:
        fields: names and values, as sent; a name may occur several times.

    Raises:
        ApiError: 400, a field is unknown, or has a value that this server cannot obey.
    """
    for name, _ in fields:
        if name not in FIELDS:
            raise _bad(name, f"unknown field {name!r}; known are {', '.join(sorted(FIELDS))}")
        if name in SINGLE_FIELDS and [key for key, _ in fields].count(name) > 1:
            raise _bad(name, f"{name} was sent more than once; send it once")
    single = dict(fields)
    response_format = single.get("response_format") or "json"
    _check(response_format, RESPONSE_FORMATS, "response_format")
    granularities = _several(fields, "timestamp_granularities")
    for granularity in granularities:
        _check(granularity, GRANULARITIES, "timestamp_granularities[]")
    if granularities and response_format != "verbose_json":
        raise _bad("timestamp_granularities[]", "timestamp_granularities[] needs response_format=verbose_json")
    included = _several(fields, "include")
    for name in included:
        _check(name, list(INCLUDABLE), "include[]")
        if response_format != INCLUDABLE[name]:
            raise _bad("include[]", f"include[]={name} needs response_format={INCLUDABLE[name]}")
    _check(single.get("chunking_strategy") or "auto", ("auto",), "chunking_strategy")
    stream = _flag(single.get("stream", ""), "stream")
    if stream and response_format in ("srt", "vtt"):
        raise _bad("stream", f"response_format={response_format} cannot be streamed; take verbose_json")
    return Options(
        language=_language(single.get("language")),
        prompt=single.get("prompt") or "",
        temperature=_temperature(single.get("temperature")),
        response_format=response_format,
        word_times="word" in granularities,
        log_probabilities="logprobs" in included,
        subtitles="subtitles" in included,
        stream=stream,
    )


def _language(value: str | None) -> str | None:
    if not value:
        return None
    try:
        return canonical_language(value)
    except InputError as error:
        raise _bad("language", str(error)) from error


def _temperature(value: str | None) -> float:
    try:
        temperature = float(value or 0)
    except ValueError:
        temperature = -1.0
    if not 0 <= temperature <= 1:
        raise _bad("temperature", f"temperature is {value!r}; give a number from 0 to 1")
    return temperature


def _flag(value: str, name: str) -> bool:
    _check(value.lower(), (*TRUE, *FALSE), name)
    return value.lower() in TRUE


def _several(fields: Sequence[tuple[str, str]], name: str) -> list[str]:
    return [value for key, value in fields if key in (name, f"{name}[]")]


def _check(value: str, known: Sequence[str], name: str) -> None:
    if value not in known:
        raise _bad(name, f"{name} is {value!r}; known are {', '.join(filter(None, known))}")


def _bad(param: str, message: str) -> ApiError:
    return ApiError(400, message, param=param)
