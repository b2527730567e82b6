"""A live session: OpenAI's Realtime events for transcription over a WebSocket.

In: `session.update` and `input_audio_buffer` events. Out: where speech begins and ends, its text as it grows, and the
whole text of each utterance after the pause. The work per second of audio and the memory are bounded, however long the
session lasts: if the client sends faster than the model hears, its messages wait.
"""

import asyncio
import base64
import binascii
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self
from uuid import uuid4

import numpy as np
import soxr

from arkasr.data.audio import SAMPLE_RATE
from arkasr.errors import InputError
from arkasr.serve.engine import Recognized
from arkasr.serve.errors import ApiError
from arkasr.serve.live.agreement import Agreement
from arkasr.serve.live.detector import StreamDetector
from arkasr.serve.live.settings import LiveSettings, updated
from arkasr.serve.live.tracker import Ended, Samples, SpeechTracker, Started
from arkasr.serve.model_pool import ModelPool

# A hypothesis of the open utterance is made after so much more audio, and takes at most this share of the time.
HYPOTHESIS_SECONDS = 1.0
HYPOTHESIS_SHARE = 0.3
WAITING_UTTERANCES = 8
MOST_MESSAGE_SECONDS = 60.0
ATTEMPTS = 4

Send = Callable[[str], Awaitable[None]]
Receive = Callable[[], Awaitable[str]]


@dataclass
class _Item:
    """An utterance while it is spoken and recognised."""

    id: str
    agreement: Agreement = field(default_factory=Agreement)
    is_open: bool = True


class LiveSession:
    """One connection.

    Args:
        models: of the server. A session holds one only while it recognises, so the others find memory in pauses.
        settings: to begin with; `model` is a name of the server.
        longest_seconds: of an utterance, as the model can hear it.
        receive: the next message of the client; raises if it has left.
        send: a message to the client.
    """

    def __init__(
        self,
        models: ModelPool,
        settings: LiveSettings,
        longest_seconds: float,
        receive: Receive,
        send: Send,
    ) -> None:
        self._models, self._settings, self._longest_seconds = models, settings, longest_seconds
        self._receive, self._send_text = receive, send
        self._owner = object()
        self._numbers = itertools.count(1)
        self._thread = ThreadPoolExecutor(1, "live")
        self._detector = StreamDetector()
        self._heard_seconds = 0.0  # of the whole session
        self._open_stream()
        self._item: _Item | None = None
        self._previous_id: str | None = None
        self._hypothesis_samples: tuple[_Item, Samples] | None = None
        self._wants_hypothesis = asyncio.Event()
        self._recognizing: set[asyncio.Future[Recognized]] = set()
        self._utterances: asyncio.Queue[tuple[_Item, Samples, asyncio.Future[Recognized]]] = asyncio.Queue(
            WAITING_UTTERANCES
        )

    @classmethod
    async def opened(cls, models: ModelPool, settings: LiveSettings, receive: Receive, send: Send) -> Self:
        """A session with the model that `settings` asks for; None = the first one.

        Raises:
            ApiError: there is no such model, or no memory for it.
        """
        async with models.lend(settings.model) as model:
            settings, longest_seconds = replace(settings, model=model.name), model.longest_clip_seconds
        del model  # it may leave memory
        return await asyncio.to_thread(cls, models, settings, longest_seconds, receive, send)

    async def run(self) -> None:
        """Serve until the client leaves."""
        await self._send("session.created", session=self._settings.description())
        tasks = [asyncio.create_task(work()) for work in (self._listen, self._hypothesize, self._finish_utterances)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for recognizing in list(self._recognizing):
                recognizing.cancel()
            self._thread.shutdown(wait=False)

    async def _listen(self) -> None:
        handlers: Mapping[str, Callable[[Mapping[str, Any]], Awaitable[None]]] = {
            "session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
        }
        while True:
            text = await self._receive()
            event_id = None
            try:
                event = _event_of(text)
                event_id = event.get("event_id")
                handler = handlers.get(str(event.get("type")))
                if handler is None:
                    raise ApiError(400, f"event {event.get('type')!r}: known are {', '.join(handlers)}", param="type")
                await handler(event)
            except ApiError as error:
                known_id = event_id if isinstance(event_id, str) and event_id.isascii() else None
                await self._send("error", error=error.document()["error"] | {"event_id": known_id})

    async def _update(self, event: Mapping[str, Any]) -> None:
        settings = updated(self._settings, event.get("session"))
        async with self._models.lend(settings.model) as model:
            try:
                model.check_language(settings.language)
            except InputError as error:
                raise ApiError(400, str(error), param="session.audio.input.transcription.language") from error
            settings, longest_seconds = replace(settings, model=model.name), model.longest_clip_seconds
        del model  # it may leave memory
        if self._item is not None:
            await self._commit(event)
        self._settings, self._longest_seconds = settings, longest_seconds
        self._open_stream()
        await self._send("session.updated", session=self._settings.description())

    async def _append(self, event: Mapping[str, Any]) -> None:
        samples = _samples_of(event.get("audio"), self._settings.rate)
        self._heard_seconds += len(samples) / self._settings.rate
        changes = await self._in_thread(partial(self._track, samples))
        for change in changes:
            await self._note(change)
        if self._item is not None and not self._wants_hypothesis.is_set():
            open_samples = self._tracker.open_samples
            if open_samples is not None:
                self._hypothesis_samples = self._item, open_samples
                self._wants_hypothesis.set()

    async def _commit(self, event: Mapping[str, Any]) -> None:
        changes = await self._in_thread(lambda: [*self._track_rest(), *self._tracker.finish()])
        self._open_stream()
        for change in changes:
            await self._note(change)
        if not changes:
            raise ApiError(400, "no speech since the last utterance", code="input_audio_buffer_commit_empty")

    async def _clear(self, event: Mapping[str, Any]) -> None:
        if self._item is not None:
            self._item.is_open = False
            self._item = None
        self._open_stream()
        await self._send("input_audio_buffer.cleared")

    async def _note(self, change: Started | Ended) -> None:
        milliseconds = round(change.begin * 1000 / SAMPLE_RATE)
        if isinstance(change, Started):
            await self._begin_item(milliseconds)
            return
        item = self._item
        assert item is not None
        item.is_open, self._item = False, None
        if not change.goes_on:
            end = milliseconds + round(len(change.samples) * 1000 / SAMPLE_RATE)
            await self._send("input_audio_buffer.speech_stopped", item_id=item.id, audio_end_ms=end)
        await self._send("input_audio_buffer.committed", item_id=item.id, previous_item_id=self._previous_id)
        self._previous_id = item.id
        # With the settings of this moment, which an update may change.
        recognizing = asyncio.ensure_future(self._recognized_at_last(change.samples, self._settings))
        self._recognizing.add(recognizing)
        recognizing.add_done_callback(self._recognizing.discard)
        await self._utterances.put((item, change.samples, recognizing))
        if change.goes_on:
            await self._begin_item(milliseconds + round(len(change.samples) * 1000 / SAMPLE_RATE))

    async def _begin_item(self, milliseconds: int) -> None:
        self._item = _Item(f"item_{uuid4().hex[:20]}")
        await self._send("input_audio_buffer.speech_started", item_id=self._item.id, audio_start_ms=milliseconds)

    async def _hypothesize(self) -> None:
        """Show words of the open utterance as soon as two hypotheses agree on them."""
        heard: tuple[_Item | None, int] = None, 0
        while True:
            await self._wants_hypothesis.wait()
            assert self._hypothesis_samples is not None
            item, samples = self._hypothesis_samples
            already = heard[1] if heard[0] is item else 0
            # Words of the open utterance are not worth loading a model for.
            is_loaded = self._models.is_loaded(self._models.name_of(self._settings.model))
            if is_loaded and item.is_open and len(samples) - already >= HYPOTHESIS_SECONDS * SAMPLE_RATE:
                heard = item, len(samples)
                began = time.monotonic()
                try:
                    recognized = await self._recognized(samples, self._settings)
                except Exception:  # the whole utterance will tell
                    recognized = None
                if recognized is not None and item.is_open:
                    await self._show(item, item.agreement.add(recognized.recognition.text or ""))
                await asyncio.sleep((time.monotonic() - began) * (1 / HYPOTHESIS_SHARE - 1))
            self._wants_hypothesis.clear()

    async def _finish_utterances(self) -> None:
        while True:
            item, samples, recognizing = await self._utterances.get()
            try:
                text = (await recognizing).recognition.text or ""
            except Exception as error:  # one utterance that fails does not end the session
                if not isinstance(error, ApiError):
                    error = ApiError(400 if isinstance(error, InputError) else 500, str(error))
                await self._send(
                    "conversation.item.input_audio_transcription.failed",
                    item_id=item.id,
                    content_index=0,
                    error=error.document()["error"],
                )
                continue
            if text.startswith(item.agreement.shown):
                await self._show(item, text[len(item.agreement.shown) :])
            await self._send(
                "conversation.item.input_audio_transcription.completed",
                item_id=item.id,
                content_index=0,
                transcript=text,
                usage={"type": "duration", "seconds": round(len(samples) / SAMPLE_RATE, 3)},
            )

    async def _show(self, item: _Item, delta: str) -> None:
        if delta:
            await self._send(
                "conversation.item.input_audio_transcription.delta", item_id=item.id, content_index=0, delta=delta
            )

    async def _recognized_at_last(self, samples: Samples, settings: LiveSettings) -> Recognized:
        """Recognise an utterance, also if other models hold the memory for a while: it cannot be sent again."""
        for _ in range(ATTEMPTS - 1):
            try:
                return await self._recognized(samples, settings)
            except ApiError as error:
                await asyncio.sleep(float((error.headers or {}).get("Retry-After", 0)))
        return await self._recognized(samples, settings)

    async def _recognized(self, samples: Samples, settings: LiveSettings) -> Recognized:
        async with self._models.lend(settings.model) as model:
            return await model.recognize(samples, settings.language, self._owner)

    def _open_stream(self) -> None:
        """Forget the open utterance and all that may be the beginning of one; times go on."""
        self._resampler = soxr.ResampleStream(self._settings.rate, SAMPLE_RATE, 1, dtype="float32")
        self._tracker = SpeechTracker(
            self._detector.probability,
            pause_seconds=self._settings.pause_ms / 1000,
            longest_seconds=self._longest_seconds,
            first_sample=round(self._heard_seconds * SAMPLE_RATE),
        )

    def _track(self, samples: Samples) -> list[Started | Ended]:
        return list(self._tracker.add(self._resampler.resample_chunk(samples)))

    def _track_rest(self) -> list[Started | Ended]:
        """What the resampler still holds."""
        rest = self._resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
        return list(self._tracker.add(rest))

    async def _in_thread(self, work: Callable[[], list[Any]]) -> list[Any]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _send(self, kind: str, **content: Any) -> None:
        event = {"type": kind, "event_id": f"event_{next(self._numbers)}"} | content
        await self._send_text(json.dumps(event, ensure_ascii=False))


def _event_of(text: str) -> Mapping[str, Any]:
    try:
        event = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"not JSON ({error})") from error
    if not isinstance(event, Mapping):
        raise ApiError(400, "an event must be an object")
    return event


def _samples_of(audio: Any, rate: int) -> Samples:
    """16-bit samples in base64 as float32 `[n]`."""
    if not isinstance(audio, str):
        raise ApiError(400, "send 16-bit samples in base64", param="audio")
    try:
        content = base64.b64decode(audio, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"not base64 ({error})", param="audio") from error
    if len(content) % 2:
        raise ApiError(400, "has half a sample at its end; send whole 16-bit samples", param="audio")
    if len(content) > 2 * rate * MOST_MESSAGE_SECONDS:
        raise ApiError(400, f"longer than {MOST_MESSAGE_SECONDS:g} s; send shorter messages", param="audio")
    return np.frombuffer(content, dtype="<i2").astype(np.float32) / np.float32(2**15)
