"""Keys, limits and clients that leave."""

import asyncio
import resource
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import numpy as np
import openai
import pytest
import soundfile

from arkasr.data.audio import duration_in_steps
from arkasr.serve import speech_model
from tests.audio_files import FORMATS, write_audio
from tests.serve.conftest import KEY, MODEL, running

FILE_PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
FORM = {"data": {"model": MODEL}}


def upload(content):
    return FORM | {"files": {"file": ("a.wav", content)}}


@contextmanager
def half_sent(server, part=FILE_PART, key=KEY):
    """A connection on which a form begins."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
            + f"Authorization: Bearer {key}\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n".encode()
            + part
        )
        yield connection


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY[:-1]}])
def test_without_the_key_nothing_is_told(server, header):
    answer = server.post(headers=header, **upload(b"x"))
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert server.get("/v1/models", headers=header).status_code == 401
    assert server.get("/metrics", headers=header).status_code == 401
    assert server.get("/health", headers=header).status_code == 200


def test_without_the_key_nothing_is_read(server):
    """The answer comes while the body is still on its way."""
    with half_sent(server, key="wrong") as connection:
        connection.settimeout(10)
        assert connection.recv(10_000).startswith(b"HTTP/1.1 401")


def test_large_uploads_are_refused_announced_or_not(served_folder, spoken, wav):
    def parts():
        yield FILE_PART
        for _ in range(100):
            yield bytes(10_000)

    with running(served_folder, max_upload_bytes=200_000) as server:
        announced = server.post(**upload(bytes(300_000)))
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "multipart/form-data; boundary=x"}
        streamed = server.post(content=parts(), headers=headers)
        for answer in (announced, streamed):
            assert answer.status_code == 413, answer.text
            assert "200000 bytes" in answer.json()["error"]["message"]
        assert server.post(**upload(wav(spoken[0]))).status_code == 200


def test_too_many_requests_are_told_when_to_come_back(served_folder, long_recording, wav):
    content = wav(long_recording[0])
    with running(served_folder, max_requests=2) as server, ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: server.post(**upload(content)), range(6)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert sorted({answer.status_code for answer in answers}) == [200, 429]
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
        with pytest.raises(openai.RateLimitError):
            raise server.client._make_status_error_from_response(refused[0])
        assert server.post(**upload(content)).status_code == 200


def test_an_upload_that_the_disk_does_not_take(server, spoken, wav):
    """A limit of the process stands for a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        answer = server.post(**upload(bytes(2**22)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert answer.status_code == 507
    assert answer.json()["error"]["type"] == "server_error"
    assert server.post(**upload(wav(spoken[0]))).status_code == 200


def test_the_work_of_a_client_that_leaves_is_given_up(served_folder, long_recording, wav):
    hour = np.tile(long_recording[0], 20)
    with running(served_folder) as server:
        engine = server.engine
        with pytest.raises(httpx2.ReadTimeout):
            server.post(**upload(wav(hour)), timeout=httpx2.Timeout(60, read=4))
        deadline = time.monotonic() + 30
        while (engine.active or engine.waiting) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (engine.active, engine.waiting) == (0, 0)
        assert server.get("/health").status_code == 200


def test_the_counting_of_a_recording_is_given_up_with_its_client(served_folder, tmp_path, monkeypatch):
    """The length of raw AAC is found by decoding all of it."""
    steps, step = [], speech_model._step

    def noting(given):
        steps.append(given)
        return step(given)

    monkeypatch.setattr(speech_model, "_step", noting)
    write_audio(tmp_path / "minute.aac", np.zeros(60 * 16_000, dtype=np.float32), FORMATS["raw.aac"])
    (tmp_path / "a.aac").write_bytes((tmp_path / "minute.aac").read_bytes() * 60 * 6)
    with running(served_folder) as server:
        with pytest.raises(httpx2.ReadTimeout):
            server.post(**upload((tmp_path / "a.aac").read_bytes()), timeout=httpx2.Timeout(60, read=0.5))
        wait_until_no_request(server)
        made = len(steps)
        time.sleep(1)
        assert 0 < made == len(steps) < len(list(duration_in_steps(tmp_path / "a.aac")))


def test_an_upload_has_no_name_on_the_disk(served_folder, long_recording, wav, tmp_path, monkeypatch):
    """Nothing can be left of it, whatever happens to the process."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names = set()
    with running(served_folder) as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.post, **upload(wav(long_recording[0])))
        while not answer.done():
            names |= set(tmp_path.iterdir())
            time.sleep(0.001)
        assert answer.result().status_code == 200
    assert names == set()


def test_accepted_requests_are_finished_when_the_server_stops(served_folder, long_recording, wav):
    content = wav(long_recording[0])
    with ThreadPoolExecutor(3) as pool:
        with running(served_folder) as server:
            answers = [pool.submit(server.post, **upload(content)) for _ in range(3)]
            engine = server.engine
            while not engine.active:
                time.sleep(0.01)
        texts = {answer.result().json()["text"] for answer in answers}
    assert len(texts) == 1


def wait_until_no_request(server):
    """A request is let go of after its last byte has been sent."""
    deadline = time.monotonic() + 30
    while server.guards._requests and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.guards._requests == 0


def test_a_client_that_sends_half_a_form_and_leaves(server, spoken, wav):
    with half_sent(server):
        pass
    assert server.post(**upload(wav(spoken[0]))).status_code == 200
    wait_until_no_request(server)


@pytest.mark.parametrize("pace", [None, 0.1])
def test_a_client_that_stops_sending_or_sends_a_byte_now_and_then_is_refused(served_folder, pace):
    with running(served_folder, stall_seconds=0.5) as server, half_sent(server) as connection:
        begin = time.monotonic()
        connection.settimeout(pace or 30)
        answer = b""
        while not answer and time.monotonic() < begin + 30:
            try:
                answer = connection.recv(10_000)
            except TimeoutError:
                connection.sendall(b"a")
        assert answer.startswith(b"HTTP/1.1 408")
        assert b'"code":"request_timeout"' in answer
        assert connection.recv(10_000) == b""  # closed
        assert 0.4 < time.monotonic() - begin < 10


def test_the_time_that_the_model_takes_is_not_the_clients(served_folder, long_recording, wav):
    with running(served_folder, stall_seconds=0.1) as server:
        begin = time.monotonic()
        assert server.post(**upload(wav(long_recording[0]))).status_code == 200
        assert time.monotonic() - begin > 0.2


def test_uploads_that_are_too_large_together_are_told_when_to_come_back(served_folder, spoken, wav):
    content = wav(spoken[0])
    limit = len(content) + 25_000
    with running(served_folder, max_upload_bytes=limit, max_stored_bytes=limit) as server:
        with half_sent(server, FILE_PART + bytes(30_000)):
            answer, deadline = server.post(**upload(content)), time.monotonic() + 30
            while answer.status_code == 200 and time.monotonic() < deadline:  # the other upload has not arrived yet
                answer = server.post(**upload(content))
            assert answer.status_code == 429
            assert answer.json()["error"]["type"] == "rate_limit_error"
            assert int(answer.headers["Retry-After"]) >= 1
            with pytest.raises(openai.RateLimitError):
                raise server.client._make_status_error_from_response(answer)
        wait_until_no_request(server)
        assert server.post(**upload(content)).status_code == 200


def test_a_client_that_does_not_read_its_stream_is_left(served_folder, long_recording, wav):
    """The application, called as by a web server whose buffers are full."""
    form = httpx2.Request(
        "POST",
        "http://x/v1/audio/transcriptions",
        data={"model": MODEL, "stream": "true"},
        files={"file": ("a.wav", wav(long_recording[0]))},
        headers={"Authorization": f"Bearer {KEY}"},
    )
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": form.url.path,
        "query_string": b"",
        "headers": [(name.lower(), value) for name, value in form.headers.raw],
    }
    sent = []

    async def call(guards):
        messages = iter([{"type": "http.request", "body": form.read(), "more_body": False}])

        async def receive():
            return next(messages, None) or await asyncio.Event().wait()

        async def send(message):
            sent.append(message)
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()

        await asyncio.wait_for(guards(scope, receive, send), 30)

    with running(served_folder, stall_seconds=0.5) as server:
        asyncio.run(call(server.guards))
        assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
        engine = server.engine
        deadline = time.monotonic() + 30
        while (engine.active or engine.waiting) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (engine.active, engine.waiting, server.guards._requests) == (0, 0, 0)


def test_a_small_file_of_many_hours_is_refused(served_folder, tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros(16_000 * 3_600, dtype=np.int16), 16_000)
    content = (tmp_path / "a.flac").read_bytes()
    assert len(content) < 2_000_000
    with running(served_folder, max_hours=0.9) as server:
        answer = server.post(**upload(content))
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == "a.wav: is longer than 0.9 h, the limit; send parts"
