"""Several models behind one server, with memory for fewer of them."""

import asyncio
import gc
import re
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from arkasr.errors import InputError
from arkasr.recognizers.load import load_recognizer
from arkasr.serve.errors import ApiError
from arkasr.serve.model_pool import GIB, _Slot
from arkasr.serve.server import ServerSettings, model_pool
from arkasr.transcribe.transcriber import Transcriber, TranscriptionSettings
from tests.serve.conftest import KEY, MODEL, MOST_TOKENS, running
from tests.serve.live.test_session import at_24k, send_in_parts, until_completed


@pytest.fixture(scope="module")
def folders(served_folder, tmp_path_factory):
    """Three models of one size that write different texts."""
    folders = {MODEL: served_folder}
    for number in (1, 2):
        recognizer = load_recognizer(str(served_folder), device="cpu", dtype=torch.float32)
        with torch.no_grad():
            for parameter in recognizer.model.model.decoder.parameters():
                parameter.mul_(1 + number / 10)
        folders[f"other-{number}"] = tmp_path_factory.mktemp("other")
        recognizer.save(folders[f"other-{number}"])
    return {name: str(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def gib_of_one(served_folder):
    recognizer = load_recognizer(str(served_folder), device="cpu", dtype=torch.float32)
    return sum(parameter.nbytes for parameter in recognizer.model.parameters()) / GIB


def pool_of(folders, memory_gib):
    return model_pool(folders, ServerSettings(max_new_tokens=MOST_TOKENS, device="cpu", memory_gib=memory_gib))


def loaded(pool):
    return [name for name in pool.names if pool.bytes_of(name)]


def test_all_models_answer_with_memory_for_one(folders, gib_of_one, spoken, wav):
    settings = TranscriptionSettings(max_new_tokens=MOST_TOKENS)
    expected = {name: Transcriber(folder, device="cpu", settings=settings) for name, folder in folders.items()}
    requests = [(name, clip) for clip in spoken[:3] for name in folders]

    def ask(request):
        name, clip = request
        return server.client.audio.transcriptions.create(file=("a.wav", wav(clip)), model=name).text

    with running(None, named=folders, memory_gib=gib_of_one * 1.5) as server, ThreadPoolExecutor(9) as pool:
        assert len(loaded(server.models)) == 1
        texts = list(pool.map(ask, requests))
        metrics = server.get("/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    assert texts == [next(iter(expected[name].transcribe([clip]))).text for name, clip in requests]
    assert len(set(texts)) == len(texts)
    sizes = [float(size) for size in re.findall(r"^arkasr_model_bytes{.*} (\S+)$", metrics, re.MULTILINE)]
    assert sorted(sizes)[:2] == [0, 0]
    assert 0 < sum(sizes) <= gib_of_one * 1.5 * GIB


def test_the_model_that_was_used_least_recently_goes(folders, gib_of_one):
    first, second, third = folders

    async def use(*names):
        for name in names:
            async with pool.lend(name) as model:
                assert model.name == name

    with pool_of(folders, gib_of_one * 2.5) as pool:
        assert loaded(pool) == [first, second]
        asyncio.run(use(second, first, third))
        assert loaded(pool) == [first, third]
        asyncio.run(use(first, second))
        assert loaded(pool) == [first, second]


def test_a_model_that_is_not_loaded_leaves_no_memory(folders, gib_of_one):
    first, second, _ = folders

    async def exchange():
        async with pool.lend(first) as model:
            weights = weakref.ref(model._recognizer.model)
        del model
        async with pool.lend(second):
            gc.collect()
            return weights()

    with pool_of(folders, gib_of_one * 1.5) as pool:
        assert asyncio.run(exchange()) is None


def test_a_model_in_use_stays_and_the_others_are_told_to_come_back(folders, gib_of_one):
    first, second, _ = folders

    async def hold():
        pool._longest_wait_seconds = 0.2
        async with pool.lend(first):
            with pytest.raises(ApiError, match="not in memory, and the models that are there are in use") as refused:
                async with pool.lend(second):
                    pass
            assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})
            async with pool.lend(first):
                pass
        async with pool.lend(second):
            assert loaded(pool) == [second]

    with pool_of(folders, gib_of_one * 1.5) as pool:
        asyncio.run(hold())


def test_those_who_wait_are_refused_together_and_others_go_on(folders, gib_of_one):
    """Else a model that is in use for hours would be held up by everybody who asks for another one."""
    first, second, _ = folders

    async def ask(name):
        began = time.monotonic()
        try:
            async with pool.lend(name):
                return "served", time.monotonic() - began
        except ApiError:
            return "refused", time.monotonic() - began

    async def crowd():
        async with pool.lend(first):
            waiting = [asyncio.create_task(ask(second)) for _ in range(6)]
            await asyncio.sleep(0.05)
            behind = asyncio.create_task(ask(first))
            answers = await asyncio.gather(*waiting, behind)
            return [*answers, await ask(second), await ask(first)]

    with pool_of(folders, gib_of_one * 1.5) as pool:
        pool._longest_wait_seconds = 1.0
        *refused, behind, again, last = asyncio.run(crowd())
    assert [outcome for outcome, _ in refused] == ["refused"] * 6
    assert all(seconds < 2 for _, seconds in refused)
    assert behind[0] == "served"
    assert behind[1] < 2
    assert (again[0], last[0]) == ("refused", "served")
    assert again[1] + last[1] < 0.5


def test_a_model_that_is_always_in_use_makes_room(folders, gib_of_one):
    first, second, _ = folders
    served = []

    async def keep_using(name, times):
        for _ in range(times):
            async with pool.lend(name):
                await asyncio.sleep(0.02)
            served.append(name)

    async def crowd():
        crowd = [asyncio.create_task(keep_using(first, 40)) for _ in range(3)]
        await asyncio.sleep(0.1)
        await keep_using(second, 1)
        await asyncio.gather(*crowd)

    with pool_of(folders, gib_of_one * 1.5) as pool:
        asyncio.run(crowd())
    assert served.count(first) == 120
    assert served.index(second) < 60


def test_a_client_that_leaves_while_a_model_is_loaded_does_not_hold_it(folders, gib_of_one):
    first, second, _ = folders

    async def leave():
        async def ask():
            async with pool.lend(second):
                raise AssertionError("the client has left")

        asking = asyncio.create_task(ask())
        while loaded(pool) == [first]:
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        async with pool.lend(first):
            assert loaded(pool) == [first]

    with pool_of(folders, gib_of_one * 1.5) as pool:
        pool._longest_wait_seconds = 20
        asyncio.run(leave())


def test_a_model_that_has_gone_is_an_error_of_its_own_requests(folders, gib_of_one):
    first, second, _ = folders

    async def ask():
        pool._slots[second].opener = lambda: (_ for _ in ()).throw(RuntimeError("out of memory"))
        with pytest.raises(ApiError, match="other-1 cannot be loaded again: out of memory") as refused:
            async with pool.lend(second):
                pass
        assert refused.value.status == 503
        async with pool.lend(first) as model:
            assert model.name == first

    with pool_of(folders, gib_of_one * 1.5) as pool:
        asyncio.run(ask())


def test_no_more_than_the_bound_is_loaded_at_the_start(folders, gib_of_one, monkeypatch):
    most, opened = 0, set()
    original_open, original_close = _Slot.open, _Slot.close

    def opening(slot):
        nonlocal most
        opened.add(slot)
        most = max(most, len(opened))
        original_open(slot)

    def closing(slot):
        opened.discard(slot)
        original_close(slot)

    monkeypatch.setattr(_Slot, "open", opening)
    monkeypatch.setattr(_Slot, "close", closing)
    with pool_of(folders, gib_of_one * 1.5):
        assert most == 1


def test_a_model_whose_engine_failed_is_loaded_again(folders):
    async def ask():
        async with pool.lend(None) as model:
            model.engine.is_broken = True
        assert pool.is_broken
        async with pool.lend(None) as again:
            assert again is not model
        assert not pool.is_broken

    with pool_of(folders, float("inf")) as pool:
        asyncio.run(ask())


def test_a_model_that_never_fits_is_refused_at_the_start(folders, gib_of_one):
    with pytest.raises(InputError, match=r"random: it takes .* GiB; raise --memory-gib"):
        pool_of(folders, gib_of_one / 2).__enter__()


def live_texts(server, names, waveform):
    """What two live sessions write for utterances that they hear in turns."""
    texts = []
    with (
        server.client.realtime.connect(model=names[0]) as one,
        server.client.realtime.connect(model=names[1]) as other,
    ):
        for connection in (one, other):
            assert connection.recv().type == "session.created"
        for connection in (one, other, one):
            send_in_parts(connection, at_24k(waveform))
            texts.append(until_completed(connection, 1)[-1].transcript)
    return texts


def test_live_sessions_of_two_models_share_the_memory_of_one(folders, gib_of_one, spoken):
    names = list(folders)[:2]
    pause = np.zeros(16_000, dtype=np.float32)
    waveform = np.concatenate([pause, spoken[0], pause])
    with running(None, named=folders) as server:
        expected = live_texts(server, names, waveform)
    with running(None, named=folders, memory_gib=gib_of_one * 1.5) as server:
        assert live_texts(server, names, waveform) == expected
    assert expected[0] != expected[1]


def test_an_unknown_model_is_not_waited_for(folders, gib_of_one):
    async def ask():
        async with pool.lend(MODEL):
            with pytest.raises(ApiError, match="no model 'gpt'; known are random, other-1, other-2"):
                async with pool.lend("gpt"):
                    pass

    with pool_of(folders, gib_of_one * 1.5) as pool:
        asyncio.run(ask())
