"""OpenAI's own Realtime client against a server that listens."""

import base64
import json
import threading
import time

import numpy as np
import pytest
import soxr
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.serve.conftest import KEY, MODEL, running

DELTA = "conversation.item.input_audio_transcription.delta"
COMPLETED = "conversation.item.input_audio_transcription.completed"


def encoded(samples):
    return base64.b64encode((samples * 32_767).astype("<i2").tobytes()).decode()


def at_24k(waveform):
    return soxr.resample(waveform, 16_000, 24_000)


def send_in_parts(connection, waveform, seconds=0.2, pace=None):
    size = round(seconds * 24_000)
    for first in range(0, len(waveform), size):
        connection.input_audio_buffer.append(audio=encoded(waveform[first : first + size]))
        if pace:
            time.sleep(pace)


def until_completed(connection, count):
    events = []
    while sum(event.type == COMPLETED for event in events) < count:
        events.append(connection.recv())
    return events


@pytest.fixture
def live(server):
    with server.client.realtime.connect(model=MODEL) as connection:
        assert connection.recv().type == "session.created"
        yield connection


def test_utterances_are_recognised_as_they_end(server, live, spoken):
    pause = np.zeros(16_000, dtype=np.float32)
    send_in_parts(live, at_24k(np.concatenate([part for clip in spoken[:3] for part in (pause, clip, pause)])))
    events = until_completed(live, 3)
    kinds = [event.type for event in events]
    assert kinds.count("input_audio_buffer.speech_started") == kinds.count("input_audio_buffer.speech_stopped") == 3
    begin = 0.0
    for started, clip in zip((e for e in events if e.type.endswith("speech_started")), spoken[:3], strict=True):
        assert begin + 0.7 < started.audio_start_ms / 1000 < begin + 1.3
        begin += 2 + len(clip) / 16_000
    for completed in (event for event in events if event.type == COMPLETED):
        assert completed.transcript != ""
        shown = "".join(event.delta for event in events if event.type == DELTA and event.item_id == completed.item_id)
        assert shown == completed.transcript
    committed = [event for event in events if event.type == "input_audio_buffer.committed"]
    assert [event.previous_item_id for event in committed] == [None, committed[0].item_id, committed[1].item_id]


def test_a_commit_ends_the_open_utterance(live, spoken):
    send_in_parts(live, at_24k(spoken[0]))
    live.input_audio_buffer.commit()
    (completed,) = (event for event in until_completed(live, 1) if event.type == COMPLETED)
    assert completed.usage.seconds > 1


def test_a_commit_without_speech_is_answered(live):
    live.input_audio_buffer.commit()
    assert live.recv().error.code == "input_audio_buffer_commit_empty"


def test_what_is_cleared_is_not_recognised(live, spoken):
    send_in_parts(live, at_24k(spoken[0]))
    live.input_audio_buffer.clear()
    send_in_parts(live, at_24k(np.concatenate((np.zeros(16_000, dtype=np.float32), spoken[1]))))
    live.input_audio_buffer.commit()
    events = until_completed(live, 1)
    assert "input_audio_buffer.cleared" in [event.type for event in events]
    begun = [event.item_id for event in events if event.type.endswith("speech_started")]
    (completed,) = (event for event in events if event.type == COMPLETED)
    assert completed.item_id == begun[-1]


@pytest.mark.parametrize("between", ["clear", "update", "commit"])
def test_times_are_those_of_the_session(live, spoken, between):
    silence = np.zeros(16_000, dtype=np.float32)
    # The silence at the end is no pause yet, so the utterance is open.
    parts = [at_24k(np.concatenate((silence, clip, silence[:5_000]))) for clip in spoken[:2]]
    send_in_parts(live, parts[0])
    if between == "clear":
        live.input_audio_buffer.clear()
    elif between == "commit":
        live.input_audio_buffer.commit()
    else:
        live.session.update(session={"type": "transcription"})
    send_in_parts(live, parts[1])
    live.input_audio_buffer.commit()
    events = until_completed(live, 1 if between == "clear" else 2)
    begins = [event.audio_start_ms / 1000 for event in events if event.type.endswith("speech_started")]
    assert len(begins) == 2
    assert 0.7 < begins[0] < 1.3
    assert 0.7 < begins[1] - len(parts[0]) / 24_000 < 1.3


def test_many_commits_do_not_shift_the_times(live, spoken):
    part = np.zeros(3_060, dtype=np.float32)  # the last of the detector's frames is not complete
    for _ in range(50):
        send_in_parts(live, part)
        live.input_audio_buffer.commit()
        assert live.recv().type == "error"
    send_in_parts(live, at_24k(spoken[0]))
    assert live.recv().audio_start_ms / 1000 == pytest.approx(50 * 3_060 / 24_000, abs=0.3)


def test_silence_and_faint_noise_give_no_event(live):
    generator = np.random.default_rng(0)
    for waveform in (np.zeros(24_000 * 20), 0.001 * generator.normal(size=24_000 * 20)):
        send_in_parts(live, waveform.astype(np.float32), seconds=5)
    live.session.update(session={"type": "transcription"})
    assert live.recv().type == "session.updated"


def test_the_settings_are_obeyed_or_refused(live):
    turns = {"type": "server_vad", "silence_duration_ms": 900}
    live.session.update(
        session={
            "type": "transcription",
            "audio": {"input": {"transcription": {"model": MODEL, "language": "de"}, "turn_detection": turns}},
        }
    )
    settings = live.recv().session.audio.input
    assert (settings.transcription.language, settings.turn_detection.silence_duration_ms) == ("German", 900)
    for given, param in (
        ({"transcription": {"language": "Elvish"}}, "transcription.language"),
        ({"transcription": {"model": "other"}}, "model"),
        ({"transcription": {"prompt": "hot words"}}, "transcription.prompt"),
        ({"format": {"type": "audio/pcmu"}}, "format.type"),
        ({"turn_detection": None}, "turn_detection"),
        ({"turn_detection": {"type": "semantic_vad"}}, "turn_detection.type"),
        ({"turn_detection": {"silence_duration_ms": 1}}, "turn_detection.silence_duration_ms"),
        ({"noise_reduction": {"type": "near_field"}}, "noise_reduction"),
        ({"surprise": 1}, "surprise"),
    ):
        live.session.update(session={"type": "transcription", "audio": {"input": given}})
        error = live.recv()
        assert error.type == "error", given
        assert error.error.param.endswith(param)


@pytest.mark.parametrize(
    "message",
    [
        b"bytes",
        "no JSON",
        "[]",
        '{"type": "response.create"}',
        '{"type": "input_audio_buffer.append"}',
        '{"type": "input_audio_buffer.append", "audio": "?"}',
        '{"type": "input_audio_buffer.append", "audio": "AAAA"}',
    ],
)
def test_bad_events_are_answered_and_the_session_goes_on(live, message):
    live._connection.send(message)
    assert live.recv().type == "error"
    live.session.update(session={"type": "transcription"})
    assert live.recv().type == "session.updated"


def refused(address, **options):
    """The status, the error and the headers with which a WebSocket is refused."""
    with pytest.raises(InvalidStatus) as found:
        connect(address, **options)
    response = found.value.response
    return response.status_code, json.loads(response.body)["error"], response.headers


def test_who_may_connect(server):
    address = server.url.replace("http", "ws") + "/v1/realtime"
    for options in ({}, {"additional_headers": {"Authorization": "Bearer wrong"}}):
        status, error, _ = refused(address, **options)
        assert (status, error["code"]) == (401, "invalid_api_key")
    protocols = ["realtime", f"openai-insecure-api-key.{KEY}"]
    with connect(address, subprotocols=protocols) as connection:
        assert json.loads(connection.recv())["type"] == "session.created"
        assert connection.subprotocol == "realtime"
    status, error, _ = refused(f"{address}?model={'模型' * 100}", subprotocols=protocols)
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "模型" in error["message"]


def test_too_many_sessions_are_told_when_to_come_back(served_folder):
    with running(served_folder, max_requests=1) as server:
        address = server.url.replace("http", "ws") + "/v1/realtime"
        options = {"additional_headers": {"Authorization": f"Bearer {KEY}"}}
        with connect(address, **options) as connection:
            connection.recv()
            status, error, headers = refused(address, **options)
            assert (status, error["type"]) == (429, "rate_limit_error")
            assert int(headers["Retry-After"]) >= 1


def test_a_client_that_leaves_takes_its_work_with_it(served_folder, long_recording):
    with running(served_folder) as server:
        before = threading.active_count()
        with server.client.realtime.connect(model=MODEL) as connection:
            connection.recv()
            send_in_parts(connection, at_24k(long_recording[0][: 16_000 * 30]), seconds=5)
        engine = server.engine
        deadline = time.monotonic() + 30
        while (server.guards._requests or engine.active or engine.waiting) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (server.guards._requests, engine.active, engine.waiting) == (0, 0, 0)
        while threading.active_count() > before + 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert threading.active_count() <= before + 3  # the threads of the model
