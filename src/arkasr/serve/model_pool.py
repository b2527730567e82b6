"""The models of a server: loaded when somebody asks for them, and given up when others need the memory."""

import asyncio
import gc
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

import torch

from arkasr.errors import InputError
from arkasr.serve.errors import ApiError
from arkasr.serve.speech_model import SpeechModel

GIB = 2**30
# Clients that were written for OpenAI's service ask for its models.
FIRST_MODEL = "whisper-1"
# So long a request waits for others to finish with a model whose memory it needs.
LONGEST_WAIT_SECONDS = 15.0

Opener = Callable[[], AbstractContextManager[SpeechModel]]


class ModelPool:
    """Models by name; a context manager, which finishes what the models have accepted.

    All models are loaded once at the start, so that a model that cannot be loaded is noticed then. Those that fit into
    memory together stay.

    Attributes:
        created: when the pool was opened, in seconds since 1970.

    Args:
        openers: loads and closes each model; the first one also answers requests without a name, or for `whisper-1`.
        max_bytes: most bytes of all loaded models.
        longest_wait_seconds: of requests for a model that is not loaded, while the others are in use. Meanwhile nobody
            else begins to use the others. If they are not free after that time, the requests are refused, and so are
            later ones for that model for as long.
    """

    def __init__(
        self,
        openers: Mapping[str, Opener],
        *,
        max_bytes: float = math.inf,
        longest_wait_seconds: float = LONGEST_WAIT_SECONDS,
    ) -> None:
        self.created = int(time.time())
        self._slots = {name: _Slot(name, opener) for name, opener in openers.items()}
        self._max_bytes, self._longest_wait_seconds = max_bytes, longest_wait_seconds
        self._uses = itertools.count(1)
        self._turn, self._changed = asyncio.Lock(), asyncio.Event()
        self._is_making_room = False

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for slot in self._slots.values():
                stack.callback(slot.close)
                slot.open()
                if slot.bytes > self._max_bytes:
                    raise InputError(
                        f"{slot.name}: it takes {slot.bytes / GIB:.2f} GiB; raise --memory-gib to at least that"
                    )
                if math.isfinite(self._max_bytes):
                    slot.close()
            for slot in self._slots.values():
                if slot.model is None and self._bytes_in_use() + slot.bytes <= self._max_bytes:
                    slot.open()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all models."""
        return tuple(self._slots)

    @property
    def is_broken(self) -> bool:
        """Whether a model has failed; the next request for it loads it again."""
        return any(slot.is_broken for slot in self._slots.values())

    def name_of(self, asked: str | None) -> str:
        """The name of the model that a client asks for.

        Raises:
            ApiError: 404, there is none.
        """
        if asked in self._slots:
            return str(asked)
        if asked in (None, FIRST_MODEL):
            return self.names[0]
        raise ApiError(
            404, f"no model {asked!r}; known are {', '.join(self.names)}", param="model", code="model_not_found"
        )

    def is_loaded(self, name: str) -> bool:
        """Whether a model is in memory."""
        return self._slots[name].model is not None

    @asynccontextmanager
    async def lend(self, asked: str | None) -> AsyncIterator[SpeechModel]:
        """A model, which stays in memory until the block ends.

        Raises:
            ApiError: 404, there is no such model; 503, the others are in use, or it can no longer be loaded.
        """
        slot = self._slots[self.name_of(asked)]
        model = await self._take(slot)
        slot.last_use = next(self._uses)
        try:
            yield model
        finally:
            self._give_back(slot)

    def bytes_of(self, name: str) -> int:
        """Bytes that a model takes; 0 if it is not loaded."""
        slot = self._slots[name]
        return slot.bytes if slot.model else 0

    def clips_of(self, name: str, state: str) -> int:
        """How many of a model's clips are `waiting` or `active`."""
        model = self._slots[name].model
        count: int = getattr(model.engine, state) if model else 0
        return count

    async def _take(self, slot: "_Slot") -> SpeechModel:
        waiter: asyncio.Future[SpeechModel] = asyncio.get_running_loop().create_future()
        slot.waiters.append(waiter)
        self._serve_waiters()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._give_back(slot)
            raise
        finally:
            if waiter in slot.waiters:
                slot.waiters.remove(waiter)

    def _give_back(self, slot: "_Slot") -> None:
        slot.leases -= 1
        self._changed.set()

    def _serve_waiters(self) -> None:
        """Give loaded models to those who wait, and load the others. Nobody begins while room is made."""
        for slot in self._slots.values():
            if slot.waiters and slot.loading is None and (slot.model is None or slot.is_broken):
                # All who wait for a model share its loading. It goes on if some of them leave.
                slot.loading = asyncio.create_task(self._load(slot))
            elif slot.model is not None and slot.loading is None and not self._is_making_room:
                slot.lend_to_waiters()

    async def _load(self, slot: "_Slot") -> None:
        try:
            async with self._turn:
                if slot.waiters:
                    await self._loaded_in_turn(slot)
        except ApiError as error:
            slot.refuse_waiters(error)
        finally:
            slot.loading = None
            self._serve_waiters()

    async def _loaded_in_turn(self, slot: "_Slot") -> None:
        self._is_making_room = True
        try:
            if slot.model is not None:  # broken
                await self._wait_until(lambda: not slot.leases, slot)
                await asyncio.to_thread(slot.close)
            while self._bytes_in_use() + slot.bytes > self._max_bytes:
                await self._wait_until(lambda: any(other.is_idle for other in self._slots.values()), slot)
                idle = [other for other in self._slots.values() if other.is_idle]
                await asyncio.to_thread(min(idle, key=lambda other: other.last_use).close)
        finally:
            self._is_making_room = False
            self._serve_waiters()
        try:
            await asyncio.to_thread(slot.open)
        except Exception as error:  # whatever happens, the other models go on
            raise ApiError(503, f"{slot.name} cannot be loaded again: {error}") from error
        slot.lend_to_waiters()

    async def _wait_until(self, is_so: Callable[[], bool], slot: "_Slot") -> None:
        """Wait for the work of others, but not long, and not again and again."""
        wait = self._longest_wait_seconds if time.monotonic() >= slot.refused_until else 0.0
        latest = time.monotonic() + wait
        while not is_so():
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), max(latest - time.monotonic(), 0))
            except TimeoutError as error:
                if wait:
                    slot.refused_until = time.monotonic() + self._longest_wait_seconds
                raise ApiError(
                    503,
                    f"{slot.name} is not in memory, and the models that are there are in use; try again",
                    headers={"Retry-After": str(math.ceil(self._longest_wait_seconds))},
                ) from error

    def _bytes_in_use(self) -> int:
        return sum(slot.bytes for slot in self._slots.values() if slot.model)


@dataclass(eq=False)
class _Slot:
    """A model's place in the pool."""

    name: str
    opener: Opener
    model: SpeechModel | None = None
    bytes: int = 0
    leases: int = 0
    last_use: int = 0
    refused_until: float = 0.0
    loading: asyncio.Task[None] | None = None
    waiters: list[asyncio.Future[SpeechModel]] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def is_idle(self) -> bool:
        return self.model is not None and not self.leases

    @property
    def is_broken(self) -> bool:
        model = self.model
        return model is not None and model.engine.is_broken

    def lend_to_waiters(self) -> None:
        waiters, self.waiters = [waiter for waiter in self.waiters if not waiter.done()], []
        for waiter in waiters:
            assert self.model is not None
            self.leases += 1
            waiter.set_result(self.model)

    def refuse_waiters(self, error: ApiError) -> None:
        waiters, self.waiters = [waiter for waiter in self.waiters if not waiter.done()], []
        for waiter in waiters:
            waiter.set_exception(error)

    def open(self) -> None:
        self.model = self._stack.enter_context(self.opener())
        self.bytes = self.model.memory_bytes

    def close(self) -> None:
        self.model = None
        self._stack.close()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
