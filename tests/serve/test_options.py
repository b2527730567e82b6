import pytest

from arkasr.serve.errors import ApiError
from arkasr.serve.options import parse_options


def test_the_defaults_are_those_of_openai() -> None:
    options = parse_options([("model", "whisper-1")])
    assert (options.response_format, options.temperature, options.language, options.stream) == ("json", 0, None, False)


def test_values_as_clients_send_them() -> None:
    options = parse_options(
        [
            ("model", "m"),
            ("language", "de"),
            ("temperature", "0.2"),
            ("response_format", "verbose_json"),
            ("timestamp_granularities[]", "word"),
            ("timestamp_granularities[]", "segment"),
            ("stream", "False"),
            ("prompt", "Hot words"),
            ("chunking_strategy", "auto"),
        ]
    )
    assert (options.language, options.temperature, options.word_times) == ("German", 0.2, True)
    assert not options.log_probabilities


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"respons_format": "json"}, "respons_format"),
        ({"response_format": "xml"}, "response_format"),
        ({"response_format": "diarized_json"}, "response_format"),
        ({"language": "Elvish"}, "language"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "1.5"}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"stream": "maybe"}, "stream"),
        ({"stream": "true", "response_format": "srt"}, "stream"),
        ({"include[]": "logits"}, "include[]"),
        ({"include[]": "logprobs", "response_format": "text"}, "include[]"),
        ({"timestamp_granularities[]": "phoneme"}, "timestamp_granularities[]"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities[]"),
        ({"chunking_strategy": "server_vad"}, "chunking_strategy"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_name(fields: dict[str, str], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse_options(list(fields.items()))
    assert (refused.value.status, refused.value.param) == (400, param)


def test_a_field_that_was_sent_twice_is_refused() -> None:
    with pytest.raises(ApiError, match="language was sent more than once"):
        parse_options([("language", "en"), ("language", "de")])
