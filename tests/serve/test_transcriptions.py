"""OpenAI's own client against a server that listens."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest

from arkasr.recognizers.text import clean_transcript
from arkasr.serve import answers
from arkasr.transcribe.formats import FORMATS
from arkasr.transcribe.transcriber import Transcriber, TranscriptionSettings
from arkasr.transcribe.words import word_spans
from tests.serve.conftest import KEY, MODEL, MOST_TOKENS


@pytest.fixture(scope="module")
def offline(served_folder):
    """What `arkasr transcribe` writes."""
    return Transcriber(served_folder, device="cpu", settings=TranscriptionSettings(max_new_tokens=MOST_TOKENS))


def transcribe(server, content, **options):
    return server.client.audio.transcriptions.create(file=("a.wav", content), **({"model": MODEL} | options))


def test_every_response_format(server, offline, long_recording, wav):
    waveform, _ = long_recording
    expected, content = offline(waveform), wav(waveform)
    assert len(expected.segments) > 3
    assert transcribe(server, content).text == expected.text
    assert transcribe(server, content, response_format="text") == expected.text + "\n"
    verbose = transcribe(server, content, response_format="verbose_json")
    assert verbose.text == expected.text
    assert verbose.duration == pytest.approx(len(waveform) / 16_000, abs=1e-3)
    for found, segment in zip(verbose.segments, expected.segments, strict=True):
        assert (found.text, found.start, found.end) == (
            segment.text,
            pytest.approx(segment.begin, abs=1e-3),
            pytest.approx(segment.end, abs=1e-3),
        )
        assert found.avg_logprob < 0
        assert [word["word"] for word in found.words] == [span.text for span in word_spans(segment.text)]
        assert all(word["probability"] is None or 0 < word["probability"] <= 1 for word in found.words)
        assert 0 <= found.no_speech_prob < 0.5


@pytest.mark.parametrize("response_format", ["srt", "vtt"])
def test_subtitles_are_those_of_the_command_line(server, served_folder, long_recording, wav, response_format):
    waveform, _ = long_recording
    short = TranscriptionSettings(max_new_tokens=MOST_TOKENS, piece_seconds=10.0)
    expected = Transcriber(served_folder, device="cpu", settings=short)(waveform)
    found = transcribe(server, wav(waveform), response_format=response_format)
    assert found == FORMATS[response_format]({}, expected)
    assert found.count("-->") > 7


def test_a_stream_has_a_part_per_segment_and_then_the_whole(server, offline, long_recording, wav):
    waveform, _ = long_recording
    events = list(transcribe(server, wav(waveform), stream=True))
    *deltas, done = events
    expected = offline(waveform)
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert done.type == "transcript.text.done"
    assert len(deltas) == len([segment for segment in expected.segments if segment.text])
    assert "".join(event.delta for event in deltas) == done.text == expected.text


def test_a_stream_of_segments(server, long_recording, wav):
    content = wav(long_recording[0])
    options = {"response_format": "verbose_json", "extra_body": {"include": ["subtitles"]}}
    whole = transcribe(server, content, **options)
    events = list(transcribe(server, content, stream=True, **options))
    segments = [event for event in events if event.type == "transcript.text.segment"]
    assert len(segments) > 7
    assert [segment.text for segment in segments] == [segment.text for segment in whole.segments]
    for found, segment in zip(events[-1].segments, whole.segments, strict=True):
        # Confidences are rounded differently in other batches.
        assert found["avg_logprob"] == pytest.approx(segment.avg_logprob, abs=1e-3)
        assert {name: found[name] for name in ("id", "start", "end", "text", "tokens")} == segment.model_dump(
            include={"id", "start", "end", "text", "tokens"}
        )
    for name in ("srt", "vtt"):
        assert events[-1].subtitles[name] == transcribe(server, content, response_format=name)


@pytest.mark.parametrize("stream", [False, True])
def test_other_requests_do_not_wait_for_the_confidences_of_a_long_recording(server, spoken, wav, monkeypatch, stream):
    """They are computed outside of the thread that answers."""
    describe, on_the_loop = answers.verbose_segment, []

    def noting(*given):
        on_the_loop.append(asyncio._get_running_loop() is not None)
        return describe(*given)

    monkeypatch.setattr(answers, "verbose_segment", noting)
    found = transcribe(server, wav(spoken[0]), response_format="verbose_json", stream=stream)
    assert (list(found)[-1] if stream else found).text
    assert on_the_loop
    assert not any(on_the_loop)


def test_log_probabilities_of_every_token(server, offline, spoken, wav):
    found = transcribe(server, wav(spoken[0]), include=["logprobs"])
    written = b"".join(bytes(map(int, token.bytes)) for token in found.logprobs).decode(errors="replace")
    assert clean_transcript(written) == found.text == offline(spoken[0]).text
    assert all(token.logprob <= 0 for token in found.logprobs)


def test_requests_at_once_get_their_own_answers(server, offline, spoken, wav):
    clips = [clip[: int(len(clip) * share)] for share in (0.4, 0.6, 0.8, 1.0) for clip in spoken]
    expected = [offline(clip).text for clip in clips]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda clip: transcribe(server, wav(clip)).text, clips))
    assert found == expected
    assert len(set(found)) > 6


def test_silence_has_no_text(server, wav):
    silence = wav(np.zeros(160_000, dtype=np.float32))
    assert transcribe(server, silence).text == ""
    verbose = transcribe(server, silence, response_format="verbose_json")
    assert (verbose.text, verbose.segments, verbose.duration) == ("", [], 10.0)


def test_the_language_of_the_answer(server, spoken, wav):
    given = transcribe(server, wav(spoken[0]), response_format="verbose_json", language="de")
    assert given.language == "german"
    detected = transcribe(server, wav(spoken[0]), response_format="verbose_json").language
    assert detected not in ("", "unknown")


def test_a_prompt_changes_what_is_written(server, spoken, wav):
    without = transcribe(server, wav(spoken[0]), language="en").text
    assert transcribe(server, wav(spoken[0]), language="en", prompt=" ").text == without
    assert transcribe(server, wav(spoken[0]), language="en", prompt="mary met john").text != without


def test_pieces_are_sampled_independently_and_a_request_again_as_before(server, spoken, wav):
    """Of a sentence that is said twice, the second copy is sampled with other numbers."""
    pause = np.zeros(16_000 * 5, dtype=np.float32)
    content = wav(np.concatenate([spoken[0], pause] * 4))
    first, second = (
        transcribe(server, content, response_format="verbose_json", language="en", temperature=1.0) for _ in range(2)
    )
    texts = [segment.text for segment in first.segments]
    assert len(texts) == 4
    assert len(set(texts)) > 1
    assert texts == [segment.text for segment in second.segments]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.wav: is empty"),
        (b"this is text and no sound at all", "a.wav: not audio that can be read"),
        (b"\x00" * 5_000, "a.wav: not audio that can be read"),
    ],
)
def test_files_that_are_no_audio(server, content, message):
    with pytest.raises(openai.BadRequestError, match=message) as refused:
        transcribe(server, content)
    assert refused.value.body["param"] == "file"
    assert "/proc" not in str(refused.value)


def test_a_cut_file_is_refused_in_a_stream_too(server, spoken, wav):
    cut = wav(spoken[0])[:-20_000]
    with pytest.raises(openai.BadRequestError, match="its header says"):
        transcribe(server, cut)
    with pytest.raises(openai.APIError, match="its header says"):
        list(transcribe(server, cut, stream=True))


@pytest.mark.parametrize(
    ("options", "param", "status"),
    [
        ({"model": "other"}, "model", 404),
        ({"language": "Elvish"}, "language", 400),
        ({"response_format": "verbose_json", "timestamp_granularities": ["word"]}, "timestamp_granularities[]", 400),
        ({"prompt": "too many words " * 50}, "prompt", 400),
    ],
)
def test_what_the_server_cannot_do_is_refused(server, spoken, wav, options, param, status):
    with pytest.raises(openai.APIStatusError) as refused:
        transcribe(server, wav(spoken[0]), **options)
    assert (refused.value.status_code, refused.value.body["param"]) == (status, param)


def test_a_file_that_is_sent_as_text_is_refused(server, spoken, wav):
    recording = {"file": ("a.wav", wav(spoken[0]))}
    for options in ({"data": {"file": "a.wav"}, "files": {"other": b"x"}}, {"data": {"file": "x"}, "files": recording}):
        answer = server.post(**options)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == "file"
        assert "`file` is a text" in answer.json()["error"]["message"]


def test_a_request_without_a_file(server):
    for body in ({"data": {"model": MODEL}}, {"files": {"other": b"x"}}, {"content": b"not a form"}, {}):
        answer = server.post(**body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_the_model_may_be_left_out(server, spoken, wav):
    files = {"file": ("a.wav", wav(spoken[0]))}
    texts = [server.post(files=files, data=data).json()["text"] for data in ({}, {"model": "whisper-1"})]
    assert texts[0] == texts[1] == transcribe(server, wav(spoken[0])).text


@pytest.mark.parametrize("charset", ["undefined", "punycode", "rot13", "base64", "utf-16", "no-such", 'a\\"b'])
def test_a_form_in_an_odd_charset_is_refused(server, charset):
    content = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n\xff\xfeabc\r\n--x--\r\n'
    headers = {"Content-Type": f'multipart/form-data; boundary=x; charset="{charset}"'}
    answer = server.post(content=content, headers={"Authorization": f"Bearer {KEY}"} | headers)
    assert answer.status_code == 400
    assert "send the form as UTF-8" in answer.json()["error"]["message"]


def test_a_form_in_a_usual_charset_is_read(server, wav, spoken):
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    content = head + wav(spoken[0]) + b"\r\n--x--\r\n"
    for charset in ("utf-8", "UTF8", "us-ascii", "ISO-8859-1"):
        headers = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
        answer = server.post(content=content, headers={"Authorization": f"Bearer {KEY}"} | headers)
        assert answer.status_code == 200, answer.text
