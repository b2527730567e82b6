"""`arkasr serve` as a process of its own: signals, and what is left behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import numpy as np
import pytest


@contextmanager
def served(folder, *options, temporary):
    command = [sys.executable, "-m", "arkasr", "serve", f"random={folder}", "--port", "0", "--max-new-tokens", "24"]
    environment = os.environ | {"TMPDIR": str(temporary)}
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        line = process.stdout.readline()
        yield process, re.search(r"at (http://\S+)$", line)[1]
    finally:
        process.kill()
        process.wait()


def post(url, content, **fields):
    files, data = {"file": ("a.wav", content)}, {"model": "random"} | fields
    return httpx2.post(f"{url}/v1/audio/transcriptions", files=files, data=data, timeout=120)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_after_the_accepted_requests(served_folder, long_recording, wav, tmp_path, number):
    content = wav(long_recording[0])
    with served(served_folder, temporary=tmp_path) as (process, url), ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(post, url, content) for _ in range(3)]
        stream = pool.submit(post, url, content, stream="true")
        while 'state="active"} 0.0' in httpx2.get(f"{url}/metrics").text:
            time.sleep(0.05)
        process.send_signal(number)
        texts = {answer.result().json()["text"] for answer in answers}
        last_event = stream.result().text.strip().split("data: ")[-1]
        assert json.loads(last_event)["text"] in texts
        assert len(texts) == 1
        assert texts != {""}
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == ""
    assert list(tmp_path.iterdir()) == []


def test_neither_a_slow_client_nor_a_long_recording_stops_the_end(served_folder, long_recording, wav, tmp_path):
    hour = wav(np.tile(long_recording[0], 40))
    limits = ("--stall-seconds", "1", "--stop-seconds", "4")
    with served(served_folder, *limits, temporary=tmp_path) as (process, url), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, url, hour)
        while 'state="active"} 0.0' in httpx2.get(f"{url}/metrics").text:
            time.sleep(0.05)
        address = url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1]))) as connection:
            connection.sendall(b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
            process.send_signal(signal.SIGTERM)
            begin = time.monotonic()
            assert process.wait(timeout=60) == 0
            assert 3 < time.monotonic() - begin < 30
        assert isinstance(answer.exception(), httpx2.HTTPError) or answer.result().status_code == 500


def test_after_sigkill_nothing_is_left(served_folder, long_recording, wav, tmp_path):
    content = wav(long_recording[0])
    with served(served_folder, temporary=tmp_path) as (process, url), ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(post, url, content) for _ in range(4)]
        while 'state="active"} 0.0' in httpx2.get(f"{url}/metrics").text:
            time.sleep(0.05)
        process.kill()
        assert all(isinstance(answer.exception(), httpx2.HTTPError) for answer in answers)
    assert list(Path(tmp_path).iterdir()) == []


def test_bad_usage_is_one_line_before_a_model_is_loaded(command, served_folder, tmp_path):
    with served(served_folder, temporary=tmp_path) as (_, url):
        port = url.rsplit(":", 1)[1]
        for arguments, message in (
            ((served_folder, "--port", port), "; give another --port"),
            ((served_folder, "--host", "no.such.host.invalid"), "; give an IPv4 address of this machine as --host"),
            ((served_folder, "--host", "192.0.2.1"), "; give an IPv4 address of this machine as --host"),
            ((served_folder, "--host", "::1"), "; give an IPv4 address of this machine as --host"),
            ((served_folder, "--host", "a" * 70), "; give an IPv4 address of this machine as --host"),
            ((served_folder, "--port", "0", "--max-stored-mib", "5"), "--max-stored-mib is less"),
            (("a=x", "a=y"), "two models are named 'a'"),
            ((served_folder, "--port", "0", "--api-key", ""), "--api-key: empty"),
            ((served_folder, "--port", "0", "--batch-seconds", "nan"), "--batch-seconds"),
            ((served_folder, "--port", "0", "--memory-gib", "0"), "--memory-gib is 0; it must be more than 0"),
            ((tmp_path / "missing", "--port", "0"), "missing"),
            ((served_folder, "--port", "0", "--max-new-tokens", "100000"), "--max-new-tokens"),
        ):
            code, _, errors = command("serve", *arguments)
            assert (code, len(errors)) == (2, 1)
            assert message in errors[0]
