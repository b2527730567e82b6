"""A server in this process, with a Whisper model of random weights, and OpenAI's own client."""

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx2
import pytest
import soundfile
import torch
import uvicorn
from openai import OpenAI

from arkasr.serve.guards import Guards
from arkasr.serve.server import ServerSettings, guarded_app, listening, model_pool
from tests.models import listening_model

MODEL, KEY = "random", "a-key"
MOST_TOKENS = 24


class RunningServer(NamedTuple):
    """A server that listens."""

    url: str
    models: Any
    guards: Guards

    @property
    def engine(self) -> Any:
        return self.models._slots[MODEL].model.engine

    @property
    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0)

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return httpx2.get(self.url + path, **options)

    def post(self, **options: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {KEY}"}
        url = f"{self.url}/v1/audio/transcriptions"
        return httpx2.post(url, **{"headers": headers, "timeout": 120} | options)


@pytest.fixture(scope="session")
def served_folder(vocabulary, tmp_path_factory):
    """A model whose transcripts depend on the audio."""
    folder = tmp_path_factory.mktemp("served")
    recognizer = listening_model("whisper", vocabulary)
    recognizer.model.float()
    recognizer.save(folder)
    return folder


@contextmanager
def running(folder, *, named=None, **options) -> Iterator[RunningServer]:
    settings = ServerSettings(port=0, api_keys=(KEY,), max_new_tokens=MOST_TOKENS, **options)
    with listening(settings) as listener, model_pool(named or {MODEL: str(folder)}, settings) as models:
        guards = guarded_app(models, settings)
        server = uvicorn.Server(uvicorn.Config(guards, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield RunningServer(f"http://127.0.0.1:{listener.getsockname()[1]}", models, guards)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def server(served_folder) -> Iterator[RunningServer]:
    threads = torch.get_num_threads()
    with running(served_folder) as started:
        yield started
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def wav():
    """A waveform as the bytes of a WAV file."""

    def encode(waveform) -> bytes:
        file = io.BytesIO()
        soundfile.write(file, waveform, 16_000, format="WAV", subtype="FLOAT")
        return file.getvalue()

    return encode
