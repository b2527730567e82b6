"""Several servers that answer alike: who is asked, how often, and what happens when one does not answer.

In: requests. Out: what was read in the answers, however many servers die and come back in between, as long as one of
them answers in the end. Everything happens in one thread beside the caller's. Knows nothing of what is asked.
"""

import asyncio
import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2

from arkasr.errors import InputError

logger = logging.getLogger(__name__)

Read = TypeVar("Read")

CONNECT_SECONDS = 10.0
# After so long, and so often, a request without an answer has its server asked whether it is there at all.
WATCH_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 10.0
# Servers close connections that were idle for 5 s; ours go before, so that no request meets a closing one.
IDLE_SECONDS = 3.0
# Overloaded, starting or broken: another server, or the same one later, may do better.
PASSING_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
# A server that is being stopped, and what stands before one that is away, refuse what they answered before.
MOST_REFUSALS = 3
KEY_VARIABLE = "VLLM_API_KEY"
REMEDIES = {
    400: "; see --max-logprobs and --max-model-len in docs/teachers.md",
    401: f"; set {KEY_VARIABLE} here to the key of the server",
    403: f"; set {KEY_VARIABLE} here to the key of the server",
    404: "; start it with --enable-scale-out, and let `served.model` be the name that it serves",
}


class NoAnswerError(Exception):
    """A server has not answered this time; says why in a few words."""


class UnusableAnswerError(NoAnswerError):
    """It has, but what it sent is not what was asked for."""


class RefusalError(NoAnswerError):
    """It does not accept the request."""


@dataclass
class Replica:
    """A server, as far as it has shown itself.

    Attributes:
        url: where it listens.
        busy: requests that it has now.
        up: whether it gets requests.
        pause: seconds before it is tried again; doubles with every failure until it answers.
    """

    url: str
    busy: int = 0
    up: bool = True
    pause: float = FIRST_PAUSE_SECONDS


Trial = Callable[[Replica], Awaitable[None]]


class Replicas:
    """Sends each request to the least busy server; one that fails gets none until it has passed a trial.

    The trials go on beside the requests. Pauses between them are drawn at random between half and the whole of their
    length, so that several trainers do not return at the same moment. The environment variable `VLLM_API_KEY`, where it
    is set, is the key shown to the servers.

    Args:
        urls: of the servers.
        in_flight: most requests that a server has from here at a time; further ones wait.
        timeout: seconds in which a request must be answered.
        patience: seconds without an answer, while no server is up, after which a request is given up.
    """

    def __init__(self, urls: Sequence[str], *, in_flight: int, timeout: float, patience: float) -> None:
        self.replicas = [Replica(url.rstrip("/")) for url in urls]
        self.in_flight = in_flight
        self.timeout = timeout
        self.patience = patience
        self._trial: Trial | None = None
        # Not the global generator: a server's failure must not change what is trained.
        self._random = random.Random()
        self._changed = asyncio.Event()
        self._last_answer = time.monotonic()
        self._last_failure = ""
        self._returning: set[asyncio.Task[None]] = set()
        key = os.environ.get(KEY_VARIABLE)
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(timeout, connect=CONNECT_SECONDS),
            limits=httpx2.Limits(keepalive_expiry=IDLE_SECONDS),
            headers={"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}),
        )
        self._loop = asyncio.new_event_loop()
        # A daemon: whatever hangs in it does not hold up the end of the process.
        self._thread = threading.Thread(target=self._loop.run_forever, name="teacher", daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, Read]) -> Future[Read]:
        """Set work going that awaits `post` or `ask`."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def trust(self, trial: Trial) -> None:
        """The servers are what they should be: from now on a bad answer is a failure that may pass.

        Args:
            trial: asks a server that has failed, and raises where it is not again what it was.
        """
        self._trial = trial

    def close(self) -> None:
        """Let go of all that is asked, and of the connections; may be called again."""
        if self._loop.is_closed():
            return
        self.start(self._end()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def post(
        self, path: str, body: bytes, read: Callable[[Any], Read], among: Sequence[Replica] | None = None
    ) -> Read:
        """What `read` makes of a server's answer, however often and whomever that takes to ask.

        Args:
            path: of the resource.
            body: JSON.
            read: is given the answer's JSON; raises `UnusableAnswerError` where it is not what was asked for.
            among: those asked; None = all.

        Raises:
            InputError: servers refuse the request, or no server has answered for as long as patience lasts, or one that
                is not trusted yet has sent what cannot be used.
        """
        among = among or self.replicas
        asked = time.monotonic()
        refusals: Counter[str] = Counter()
        while True:
            replica = await self._claim(among, asked)
            try:
                answer = await self.ask(replica, path, body, read)
            except NoAnswerError as failure:
                refusals[replica.url] += isinstance(failure, RefusalError)
                judged = self._trial is None and isinstance(failure, RefusalError | UnusableAnswerError)
                if judged or refusals[replica.url] == MOST_REFUSALS:
                    raise InputError(f"teacher {replica.url} {failure}") from failure
                self._set_aside(replica, str(failure))
            else:
                self._note_answer(replica)
                return answer
            finally:
                replica.busy -= 1
                self._wake()

    async def ask(self, replica: Replica, path: str, body: bytes, read: Callable[[Any], Read]) -> Read:
        """What `read` makes of the answer of one server, asked once.

        Raises:
            NoAnswerError: there is none, or `read` raised it.
        """
        sending = asyncio.ensure_future(self._client.post(replica.url + path, content=body))
        try:
            # The client's own time-out starts anew with every piece that arrives.
            async with asyncio.timeout(self.timeout):
                # vLLM, when it is stopped, keeps the connections that it has and answers no more.
                while not (await asyncio.wait({sending}, timeout=WATCH_SECONDS))[0]:
                    with suppress(TimeoutError, httpx2.TimeoutException):  # it may be busy
                        await self._check_health(replica)
                response = sending.result()
        except TimeoutError:
            raise NoAnswerError(f"no answer in {self.timeout:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise NoAnswerError(f"{type(error).__name__} {error}".strip()) from error
        finally:
            sending.cancel()
            sending.add_done_callback(lambda sent: sent.cancelled() or sent.exception())  # nobody else may look
        status = response.status_code
        if status in PASSING_STATUSES:
            raise NoAnswerError(f"status {status}")
        if not response.is_success:
            raise RefusalError(f"refuses with {status}: {_said(response)}{REMEDIES.get(status, '')}")
        try:
            document = response.json()
        except ValueError as error:
            raise UnusableAnswerError("answers without JSON") from error
        return read(document)

    async def _claim(self, among: Sequence[Replica], asked: float) -> Replica:
        while True:
            free = [replica for replica in among if replica.up and replica.busy < self.in_flight]
            if free:
                # Equally busy ones in turn by lot: all trainers know them in the same order.
                replica = min(free, key=lambda it: (it.busy, self._random.random()))
                replica.busy += 1
                return replica
            left = None
            if not any(replica.up for replica in among):
                silent = time.monotonic() - max(asked, self._last_answer)
                left = self.patience - silent
                if left <= 0:
                    urls = ", ".join(replica.url for replica in among)
                    raise InputError(
                        f"no teacher at {urls} has answered for {silent:.0f} s ({self._last_failure}); start one "
                        "there, or raise `served.patience_seconds`, and go on with --resume"
                    )
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _note_answer(self, replica: Replica) -> None:
        if replica.pause > FIRST_PAUSE_SECONDS:
            logger.warning("teacher %s answers again", replica.url)
        replica.pause = FIRST_PAUSE_SECONDS
        self._last_answer = time.monotonic()

    def _set_aside(self, replica: Replica, reason: str) -> None:
        self._last_failure = f"{replica.url} last: {reason}"
        if not replica.up:  # of requests that failed together, the first has set it aside
            return
        if replica.pause == FIRST_PAUSE_SECONDS:
            logger.warning("teacher %s is set aside (%s); it is tried again", replica.url, reason)
        replica.up = False
        task = asyncio.get_running_loop().create_task(self._bring_back(replica))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _bring_back(self, replica: Replica) -> None:
        """Try a server until it is healthy and passes the trial."""
        said = ""
        while not replica.up:
            await asyncio.sleep(replica.pause * self._random.uniform(0.5, 1))
            replica.pause = min(2 * replica.pause, LONGEST_PAUSE_SECONDS)
            try:
                await self._check_health(replica)
                if self._trial is not None:
                    await self._trial(replica)
            except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, NoAnswerError):
                continue
            except InputError as error:  # it answers, but is another
                self._last_failure = str(error)
                if said != str(error):
                    said = str(error)
                    logger.warning("%s; it is not asked until then", said)
                continue
            replica.up = True
            self._wake()

    async def _check_health(self, replica: Replica) -> None:
        async with asyncio.timeout(CONNECT_SECONDS):
            (await self._client.get(f"{replica.url}/health")).raise_for_status()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.aclose()


def _said(response: httpx2.Response) -> str:
    """A server's reason, in one line."""
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text
    return " ".join(str(message).split())[:500]
