import threading
from concurrent.futures import CancelledError

import pytest
import torch

from arkasr.errors import InputError
from arkasr.recognizers.continuous import Clip
from arkasr.recognizers.decoding import decode
from arkasr.serve.engine import Engine
from tests.models import listening_model

CAP = 20


@pytest.fixture(params=["student", "whisper"])
def recognizer(request, vocabulary):
    return listening_model(request.param, vocabulary)


@pytest.fixture
def clips(recognizer):
    generator = torch.Generator().manual_seed(0)
    waveforms = [torch.randn(4_000 * (1 + place % 5), generator=generator).numpy() * 0.1 for place in range(12)]
    return [Clip(recognizer.features(waveform).double(), "English", CAP) for waveform in waveforms]


def test_every_clip_gets_its_own_transcript(recognizer, clips):
    prompts = recognizer.prompts([clip.features for clip in clips], ["English"] * len(clips))
    expected = decode(recognizer, prompts, max_new_tokens=CAP).tokens
    with Engine(recognizer, batch_seconds=60.0) as engine:
        futures = [engine.submit(clip, 1.0, place % 3) for place, clip in enumerate(clips)]
        found = [future.result(timeout=120) for future in futures]
    assert all(torch.equal(one.tokens, tokens) for one, tokens in zip(found, expected, strict=True))
    assert found[0].recognition.raw == recognizer.transcript_text(expected[0])


def test_a_short_request_does_not_wait_for_a_long_one(recognizer, clips):
    finished = []
    with Engine(recognizer, batch_seconds=30.0) as engine:
        many = [engine.submit(clips[place % 12], 30.0, "a long recording") for place in range(12)]
        one = engine.submit(clips[0], 30.0, "a short recording")
        for name, future in (("many", many[-1]), ("one", one)):
            future.add_done_callback(lambda _, name=name: finished.append(name))
        many[-1].result(timeout=120)
    assert finished == ["one", "many"]


def test_what_is_cancelled_is_not_written(recognizer, clips):
    with Engine(recognizer, batch_seconds=30.0) as engine:
        futures = [engine.submit(clip, 30.0, "a") for clip in clips]
        for future in futures[1:-1]:
            future.cancel()
        assert futures[-1].result(timeout=120).recognition.text is not None
        assert engine.waiting == 0
    with pytest.raises(CancelledError):
        futures[3].result()


def test_what_is_accepted_is_finished_before_the_engine_ends(recognizer, clips):
    with Engine(recognizer, batch_seconds=30.0) as engine:
        futures = [engine.submit(clip, 30.0, "a") for clip in clips[:4]]
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(clips[0], 1.0, "a")


def test_a_bad_clip_is_refused_before_it_waits(recognizer, clips):
    with Engine(recognizer, batch_seconds=30.0) as engine:
        if recognizer.longest_transcript is not None:
            with pytest.raises(InputError, match="max_new_tokens"):
                engine.submit(Clip(clips[0].features, "English", 10_000), 1.0, "a")
            with pytest.raises(InputError, match="Elvish"):
                engine.submit(Clip(clips[0].features, "Elvish", CAP), 1.0, "a")
        assert engine.submit(clips[0], 1.0, "a").result(timeout=120).recognition.error is None


def test_an_error_of_the_model_reaches_those_who_wait_and_the_engine_goes_on(recognizer, clips, monkeypatch):
    encode, broken = recognizer.embed_audio, threading.Event()
    broken.set()

    def failing(prompts):
        if broken.is_set():
            raise RuntimeError("out of memory")
        return encode(prompts)

    monkeypatch.setattr(recognizer, "embed_audio", failing)
    with Engine(recognizer, batch_seconds=30.0) as engine:
        with pytest.raises(RuntimeError, match="out of memory"):
            engine.submit(clips[0], 1.0, "a").result(timeout=120)
        broken.clear()
        assert engine.submit(clips[0], 1.0, "a").result(timeout=120).recognition.text is not None


def test_an_error_after_decoding_reaches_those_who_wait(recognizer, clips, monkeypatch):
    with Engine(recognizer, batch_seconds=30.0) as engine:
        with monkeypatch.context() as patched:
            patched.setattr(recognizer, "transcript_text", lambda tokens: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                engine.submit(clips[0], 1.0, "a").result(timeout=120)
        assert engine.submit(clips[0], 1.0, "a").result(timeout=120).recognition.text is not None


def test_a_model_that_fails_for_good_fails_all_who_wait(recognizer, clips, monkeypatch):
    def failing(*given):
        raise RuntimeError("device lost")

    with Engine(recognizer, batch_seconds=30.0) as engine:
        monkeypatch.setattr(recognizer, "embed_audio", failing)
        monkeypatch.setattr("arkasr.serve.engine.ContinuousDecoder", failing)
        futures = [engine.submit(clip, 30.0, "a") for clip in clips[:3]]
        for future in futures:
            with pytest.raises(RuntimeError, match="device lost"):
                future.result(timeout=120)
        assert engine.is_broken
        with pytest.raises(RuntimeError, match="closed"):
            engine.submit(clips[0], 1.0, "a")
