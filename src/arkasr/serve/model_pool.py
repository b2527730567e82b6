"""The models of a server: loaded when somebody asks for them, and given up when others need the memory."""

import asyncio
import gc
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
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
        max_bytes: most bytes of the weights of all loaded models.
        longest_wait_seconds: of a request for a model that is not loaded, while the others are in use.
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
                        f"{slot.name}: its weights take {slot.bytes / GIB:.2f} GiB; raise --memory-gib to at least that"
                    )
                if self._bytes_in_use() > self._max_bytes:
                    slot.close()
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
        """Whether a model has failed for good."""
        return any(slot.model is not None and slot.model.engine.is_broken for slot in self._slots.values())

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

    @asynccontextmanager
    async def lend(self, asked: str | None) -> AsyncIterator[SpeechModel]:
        """A model, which stays in memory until the block ends.

        Raises:
            ApiError: 404, there is no such model; 503, the others are in use, or it can no longer be loaded.
        """
        slot = self._slots[self.name_of(asked)]
        taking = asyncio.create_task(self._take(slot))
        try:
            model = await asyncio.shield(taking)
        except asyncio.CancelledError:  # a model is loaded to the end even if the client has left
            taking.add_done_callback(partial(self._give_back_if_taken, slot))
            raise
        try:
            yield model
        finally:
            self._give_back(slot)

    def bytes_of(self, name: str) -> int:
        """Bytes of a model's weights; 0 if it is not loaded."""
        slot = self._slots[name]
        return slot.bytes if slot.model else 0

    def clips_of(self, name: str, state: str) -> int:
        """How many of a model's clips are `waiting` or `active`."""
        model = self._slots[name].model
        count: int = getattr(model.engine, state) if model else 0
        return count

    async def _take(self, slot: "_Slot") -> SpeechModel:
        # Those who ask for a loaded model pass those who wait for loading, but not those who wait for memory. Else a
        # model that is always in use would never make room.
        if slot.model is None or self._is_making_room:
            async with self._turn:
                if slot.model is None:
                    await self._make_room(slot)
                    await asyncio.to_thread(_reopen, slot)
        assert slot.model is not None
        slot.leases += 1
        slot.last_use = next(self._uses)
        return slot.model

    def _give_back_if_taken(self, slot: "_Slot", taking: asyncio.Task[SpeechModel]) -> None:
        if not taking.cancelled() and taking.exception() is None:
            self._give_back(slot)

    def _give_back(self, slot: "_Slot") -> None:
        slot.leases -= 1
        self._changed.set()

    async def _make_room(self, slot: "_Slot") -> None:
        latest = time.monotonic() + self._longest_wait_seconds
        self._is_making_room = True
        try:
            while self._bytes_in_use() + slot.bytes > self._max_bytes:
                idle = [other for other in self._slots.values() if other.model and not other.leases]
                if idle:
                    await asyncio.to_thread(min(idle, key=lambda other: other.last_use).close)
                else:
                    await self._wait_for_change(latest - time.monotonic(), slot)
        finally:
            self._is_making_room = False

    async def _wait_for_change(self, seconds: float, slot: "_Slot") -> None:
        self._changed.clear()
        try:
            await asyncio.wait_for(self._changed.wait(), max(seconds, 0))
        except TimeoutError as error:
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
    _stack: ExitStack = field(default_factory=ExitStack)

    def open(self) -> None:
        self.model = self._stack.enter_context(self.opener())
        self.bytes = self.model.weight_bytes

    def close(self) -> None:
        self.model = None
        self._stack.close()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _reopen(slot: _Slot) -> None:
    try:
        slot.open()
    except (InputError, OSError) as error:
        raise ApiError(503, f"{slot.name} can no longer be loaded: {error}") from error
