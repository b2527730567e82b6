"""The routes beside transcriptions: models, token mask, description, health, metrics."""

import httpx2
import openai
import pytest
import torch

from arkasr.recognizers.load import load_recognizer
from arkasr.serve.options import FIELDS
from tests.serve.conftest import KEY, MODEL, running


def test_the_models(server):
    (listed,) = server.client.models.list().data
    assert listed.id == server.client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        server.client.models.retrieve("other")


def test_the_interface_is_described(server):
    headers = {"Authorization": f"Bearer {KEY}"}
    description = server.get("/openapi.json", headers=headers).json()
    form = description["paths"]["/v1/audio/transcriptions"]["post"]["requestBody"]["content"]["multipart/form-data"]
    described = set(form["schema"]["properties"])
    assert described | {"timestamp_granularities", "include"} == set(FIELDS)
    assert form["schema"]["required"] == ["file"]


def test_the_tokens_that_a_model_never_writes(server, served_folder):
    headers = {"Authorization": f"Bearer {KEY}"}
    mask = server.get(f"/token-mask?model={MODEL}", headers=headers).json()
    recognizer = load_recognizer(str(served_folder), device="cpu", dtype=torch.float32)
    assert mask["model"] == MODEL
    assert mask["vocab_size"] == len(recognizer.head)
    blocked = set(mask["blocked"])
    assert len(blocked) == len(mask["blocked"])
    assert {token for token in range(mask["vocab_size"]) if not recognizer.allowed_tokens[token]} == blocked
    assert recognizer.stop_token_id not in blocked
    assert server.get("/token-mask", headers=headers).json() == mask
    assert server.get("/token-mask?model=other", headers=headers).status_code == 404
    assert server.get("/token-mask").status_code == 401


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/models", f"/v1/models/{MODEL}", "/"])
def test_head_is_answered_as_get_without_a_body(server, path):
    """Monitors and proxies ask with HEAD."""
    headers = {"Authorization": f"Bearer {KEY}"}
    found, expected = (getattr(httpx2, method)(server.url + path, headers=headers) for method in ("head", "get"))
    assert found.status_code == expected.status_code == 200
    assert found.content == b""
    assert found.headers["Content-Length"] == str(len(expected.content))


def test_head_needs_the_key_where_get_does(server):
    assert httpx2.head(f"{server.url}/v1/models").status_code == 401


def test_health_and_metrics(server, spoken, wav):
    assert server.get("/health").json() == {"status": "ok"}
    assert server.get("/ready").status_code == 200
    server.client.audio.transcriptions.create(file=("a.wav", wav(spoken[0])), model=MODEL)
    text = server.get("/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    (line,) = (line for line in text.splitlines() if line.startswith('arkasr_audio_seconds_total{model="random"}'))
    assert float(line.split()[1]) > 1
    assert 'arkasr_clips{model="random",state="waiting"} 0.0' in text


def test_requests_are_counted_by_route_and_status(served_folder, spoken, wav):
    files, key = {"file": ("a.wav", wav(spoken[0]))}, {"Authorization": f"Bearer {KEY}"}
    with running(served_folder) as server:
        statuses = [
            server.post(files=files).status_code,
            server.post(files=files, data={"language": "Elvish"}).status_code,
            server.post(files=files, headers={}).status_code,
            httpx2.post(f"{server.url}/v1/audio/translations", files=files, headers=key).status_code,
        ]
        assert statuses == [200, 400, 401, 404]
        lines = server.get("/metrics", headers=key).text.splitlines()
        route = 'route="/v1/audio/transcriptions"'
        for status in (200, 400, 401):
            assert f'arkasr_requests_total{{{route},status="{status}"}} 1.0' in lines
        assert 'arkasr_requests_total{route="other",status="404"} 1.0' in lines
        assert f"arkasr_request_seconds_count{{{route}}} 3.0" in lines
