"""`arkasr serve` with both engines: the same model, requests and answers."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.models import SMALL_STUDENT, listening_model
from tests.serve.conftest import MODEL, running, wav  # noqa: F401

pytestmark = pytest.mark.vllm
# vLLM's attention on the CPU supports head sizes from 32.
SIZES = SMALL_STUDENT | {"hidden_size": 64}


@pytest.fixture(scope="module")
def folder(vocabulary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    recognizer = listening_model("student", vocabulary, SIZES)
    recognizer.model.float()
    recognizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def own(folder):
    with running(folder) as server:
        yield server


@pytest.fixture(scope="module")
def vllm(folder):
    pytest.importorskip("vllm")
    with running(folder, engine="vllm", cache_gib=0.1) as server:
        yield server


@pytest.fixture
def both(own, vllm):
    def ask(**options):
        answers = []
        for server in (own, vllm):
            answer = server.client.audio.transcriptions.create(**({"model": MODEL} | options))
            answers.append(answer if isinstance(answer, str) else answer.model_dump(exclude={"usage"}))
        return answers

    return ask


@pytest.mark.parametrize("response_format", ["json", "text", "srt", "vtt"])
def test_both_engines_write_the_same(both, long_recording, wav, response_format):  # noqa: F811
    own, vllm = both(file=("a.wav", wav(long_recording[0])), response_format=response_format)
    assert vllm == own
    assert len(str(own)) > 100


def test_both_engines_are_equally_sure(both, long_recording, wav):  # noqa: F811
    own, vllm = both(file=("a.wav", wav(long_recording[0])), response_format="verbose_json")
    assert vllm["text"] == own["text"]
    for ours, theirs in zip(own["segments"], vllm["segments"], strict=True):
        assert theirs["tokens"] == ours["tokens"]
        assert theirs["avg_logprob"] == pytest.approx(ours["avg_logprob"], abs=1e-3)
    own, vllm = both(file=("a.wav", wav(long_recording[0][:160_000])), extra_body={"include": ["logprobs"]})
    assert [token["token"] for token in vllm["logprobs"]] == [token["token"] for token in own["logprobs"]]
    expected = [token["logprob"] for token in own["logprobs"]]
    assert [token["logprob"] for token in vllm["logprobs"]] == pytest.approx(expected, abs=1e-3)


def test_streams_and_requests_at_once(own, vllm, spoken, long_recording, wav):  # noqa: F811
    def text(server, clip):
        return server.client.audio.transcriptions.create(file=("a.wav", wav(clip)), model=MODEL).text

    def streamed(server):
        events = server.client.audio.transcriptions.create(
            file=("a.wav", wav(long_recording[0])), model=MODEL, stream=True
        )
        return [event.delta for event in events if event.type == "transcript.text.delta"]

    clips = [clip[: int(len(clip) * share)] for share in (0.4, 0.7, 1.0) for clip in spoken]
    expected = [text(own, clip) for clip in clips]
    with ThreadPoolExecutor(12) as pool:
        stream = pool.submit(streamed, vllm)
        assert list(pool.map(lambda clip: text(vllm, clip), clips)) == expected
    assert stream.result() == streamed(own)
    assert len(set(expected)) > 6


def test_sampling_repeats_itself(vllm, spoken, wav):  # noqa: F811
    def ask(temperature):
        return vllm.client.audio.transcriptions.create(
            file=("a.wav", wav(spoken[0])), model=MODEL, temperature=temperature
        ).text

    assert ask(1.0) == ask(1.0) != ask(0.0)


def test_a_client_that_leaves_takes_its_work_with_it(vllm, long_recording, wav):  # noqa: F811
    process = vllm.engine._decoder._vllm._processes[0]
    with vllm.client.audio.transcriptions.create(
        file=("a.wav", wav(np.tile(long_recording[0], 4))), model=MODEL, stream=True
    ) as events:
        next(iter(events))
        assert vllm.engine.active > 1
    deadline = time.monotonic() + 30
    while (vllm.engine.active or vllm.engine.waiting) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (vllm.engine.active, vllm.engine.waiting) == (0, 0)
    unfinished = vllm.engine._decoder._vllm.submit(lambda llm: llm.llm_engine.get_num_unfinished_requests())
    assert unfinished() == 0
    assert vllm.engine._decoder._vllm._processes[0] is process
    assert process.is_alive()


def test_after_vllm_was_killed_it_is_started_again(folder, own, spoken, wav):  # noqa: F811
    with running(folder, engine="vllm", cache_gib=0.1) as server:
        (process, *_) = server.engine._decoder._vllm._processes
        process.kill()
        process.join()
        answer = server.post(files={"file": ("a.wav", wav(spoken[0]))})
        assert answer.status_code == 500
        answer = server.post(files={"file": ("a.wav", wav(spoken[0]))})
        (process, *_) = server.engine._decoder._vllm._processes
    assert answer.json()["text"] == own.post(files={"file": ("a.wav", wav(spoken[0]))}).json()["text"]
    process.join(30)
    assert not process.is_alive()


def test_a_model_that_vllm_cannot_run_is_refused_at_the_start(command, whisper_folder):
    pytest.importorskip("vllm")
    code, _, errors = command("serve", whisper_folder, "--engine", "vllm", "--port", 0, "--max-new-tokens", 24)
    assert code == 2
    assert "engine vllm" in errors[-1]
    assert not [line for line in errors if "Traceback" in line]
