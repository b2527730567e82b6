"""HTTP requests to several equivalent servers: load balancing, health and retries.

In: requests. Out: parsed responses. While requests are open, servers may fail and come back, as long as one of them
responds within `patience`. All I/O runs in one background thread. The caller makes the content of the requests.
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

Parsed = TypeVar("Parsed")

CONNECT_SECONDS = 10.0
# Interval of the health checks of a server while a request to it is pending.
HEALTH_CHECK_SECONDS = 5.0
MIN_BACKOFF_SECONDS = 0.25
MAX_BACKOFF_SECONDS = 10.0
# Servers close connections after 5 idle seconds. The client closes them first, so that no request uses a closed one.
KEEPALIVE_SECONDS = 3.0
# Overloaded, starting or broken: a retry may succeed.
RETRYABLE_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
# A server that is shutting down, or a proxy without a server, may reject a valid request.
MAX_REJECTIONS = 3
API_KEY_VARIABLE = "VLLM_API_KEY"
REMEDIES = {
    400: "; see --max-logprobs and --max-model-len in docs/teachers.md",
    401: f"; set {API_KEY_VARIABLE} here to the key of the server",
    403: f"; set {API_KEY_VARIABLE} here to the key of the server",
    404: "; start it with --enable-scale-out, and set `served.model` to the name under which it serves the model",
}


class RequestFailedError(Exception):
    """One attempt has failed; the message says why."""


class InvalidResponseError(RequestFailedError):
    """The response is not usable."""


class RequestRejectedError(RequestFailedError):
    """The server does not accept the request."""


@dataclass
class Replica:
    """State of one server.

    Attributes:
        url: base URL.
        active_requests: number of this process's pending requests to the server.
        healthy: whether it gets requests.
        backoff: seconds before the next probe. Each probe doubles it; the next successful request resets it.
    """

    url: str
    active_requests: int = 0
    healthy: bool = True
    backoff: float = MIN_BACKOFF_SECONDS


Probe = Callable[[Replica], Awaitable[None]]


class Replicas:
    """Sends each request to the least busy healthy server. A failed server gets requests again after a passed probe.

    Probes run beside the requests. Each waits for a random 50% to 100% of the backoff, so that several trainers do not
    probe a server at the same moment. The environment variable `VLLM_API_KEY`, if set, is the API key.

    Args:
        urls: base URLs of the servers.
        in_flight: maximum number of simultaneous requests of this process to one server; further ones wait.
        timeout: seconds until a request without a response has failed.
        patience: a request is given up after this many seconds without any response and without a healthy server.
    """

    def __init__(self, urls: Sequence[str], *, in_flight: int, timeout: float, patience: float) -> None:
        self.replicas = [Replica(url.rstrip("/")) for url in urls]
        self.in_flight = in_flight
        self.timeout = timeout
        self.patience = patience
        self._probe: Probe | None = None
        # A private generator: a server failure must not change training.
        self._random = random.Random()
        self._state_changed = asyncio.Event()
        self._last_response = time.monotonic()
        self._last_failure = ""
        self._recoveries: set[asyncio.Task[None]] = set()
        key = os.environ.get(API_KEY_VARIABLE)
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(timeout, connect=CONNECT_SECONDS),
            limits=httpx2.Limits(keepalive_expiry=KEEPALIVE_SECONDS),
            headers={"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}),
        )
        self._loop = asyncio.new_event_loop()
        # A daemon thread: a pending request must not keep the process alive.
        self._thread = threading.Thread(target=self._loop.run_forever, name="teacher", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, Parsed]) -> Future[Parsed]:
        """Run a coroutine that awaits `post` or `post_once` in the background thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def set_probe(self, probe: Probe) -> None:
        """Set the probe that a failed server must pass. Call this method after the self-test of all servers.

        From then on, rejections and invalid responses are retried.

        Args:
            probe: sends a self-test request to a failed server, and raises unless the server passes.
        """
        self._probe = probe

    def close(self) -> None:
        """Cancel all requests and close the connections. Calling it again does nothing."""
        if self._loop.is_closed():
            return
        self.submit(self._shut_down()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def post(
        self, path: str, body: bytes, parse: Callable[[Any], Parsed], candidates: Sequence[Replica] | None = None
    ) -> Parsed:
        """Send a request, and retry on any server until a response is usable.

        Args:
            path: of the endpoint.
            body: JSON.
            parse: gets the response's JSON, and raises `InvalidResponseError` if it is not usable.
            candidates: servers that may get the request; None = all.

        Raises:
            InputError: no server has responded for `patience` seconds, or one server has rejected the request
                `MAX_REJECTIONS` times. Without a probe, the first rejection or invalid response raises it.
        """
        candidates = candidates or self.replicas
        submitted = time.monotonic()
        rejections: Counter[str] = Counter()
        while True:
            replica = await self._acquire(candidates, submitted)
            try:
                parsed = await self.post_once(replica, path, body, parse)
            except RequestFailedError as failure:
                rejections[replica.url] += isinstance(failure, RequestRejectedError)
                permanent = self._probe is None and isinstance(failure, RequestRejectedError | InvalidResponseError)
                if permanent or rejections[replica.url] == MAX_REJECTIONS:
                    raise InputError(f"teacher {replica.url} {failure}") from failure
                self._mark_unhealthy(replica, str(failure))
            else:
                self._mark_responding(replica)
                return parsed
            finally:
                replica.active_requests -= 1
                self._notify()

    async def post_once(self, replica: Replica, path: str, body: bytes, parse: Callable[[Any], Parsed]) -> Parsed:
        """Send a request to one server, once.

        Raises:
            RequestFailedError: there is no response, its status is an error, it is not JSON, or `parse` raised it.
        """
        response = await self._response(replica, path, body)
        status = response.status_code
        if status in RETRYABLE_STATUSES:
            raise RequestFailedError(f"status {status}")
        if not response.is_success:
            raise RequestRejectedError(f"refuses with {status}: {_error_message(response)}{REMEDIES.get(status, '')}")
        try:
            document = response.json()
        except ValueError as error:
            raise InvalidResponseError("sends a response that is not JSON") from error
        return parse(document)

    async def _response(self, replica: Replica, path: str, body: bytes) -> httpx2.Response:
        pending = asyncio.ensure_future(self._client.post(replica.url + path, content=body))
        try:
            # The client's own timeout restarts with every chunk received.
            async with asyncio.timeout(self.timeout):
                # vLLM keeps its connections open without responding when it is stopped.
                while not (await asyncio.wait({pending}, timeout=HEALTH_CHECK_SECONDS))[0]:
                    with suppress(TimeoutError, httpx2.TimeoutException):  # a busy server may be slow
                        await self._check_health(replica)
                return pending.result()
        except TimeoutError:
            raise RequestFailedError(f"no response in {self.timeout:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise RequestFailedError(f"{type(error).__name__} {error}".strip()) from error
        finally:
            pending.cancel()
            # asyncio warns of a task whose exception is never retrieved.
            pending.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _acquire(self, candidates: Sequence[Replica], submitted: float) -> Replica:
        """Reserve a place for a request at the least busy healthy server. Wait until one has fewer than `in_flight`."""
        while True:
            free = [replica for replica in candidates if replica.healthy and replica.active_requests < self.in_flight]
            if free:
                # Ties are random, since all trainers list the servers in the same order.
                replica = min(free, key=lambda it: (it.active_requests, self._random.random()))
                replica.active_requests += 1
                return replica
            remaining = None
            if not any(replica.healthy for replica in candidates):
                silent = time.monotonic() - max(submitted, self._last_response)
                remaining = self.patience - silent
                if remaining <= 0:
                    urls = ", ".join(replica.url for replica in candidates)
                    raise InputError(
                        f"no teacher at {urls} has answered for {silent:.0f} s ({self._last_failure}); start one "
                        "there, or raise `served.patience_seconds`, and continue with --resume"
                    )
            with suppress(TimeoutError):
                async with asyncio.timeout(remaining):
                    await self._state_changed.wait()

    def _notify(self) -> None:
        self._state_changed.set()
        self._state_changed = asyncio.Event()

    def _mark_responding(self, replica: Replica) -> None:
        if replica.backoff > MIN_BACKOFF_SECONDS:
            logger.warning("teacher %s is healthy again", replica.url)
        replica.backoff = MIN_BACKOFF_SECONDS
        self._last_response = time.monotonic()

    def _mark_unhealthy(self, replica: Replica, reason: str) -> None:
        self._last_failure = f"last failure: {replica.url}: {reason}"
        if not replica.healthy:  # another request to it failed first
            return
        if replica.backoff == MIN_BACKOFF_SECONDS:
            logger.warning("teacher %s is unhealthy (%s); retrying", replica.url, reason)
        replica.healthy = False
        task = asyncio.get_running_loop().create_task(self._recover(replica))
        self._recoveries.add(task)
        task.add_done_callback(self._recoveries.discard)

    async def _recover(self, replica: Replica) -> None:
        """Check a server's health, and probe it, until it passes both."""
        logged = ""
        while not replica.healthy:
            await asyncio.sleep(replica.backoff * self._random.uniform(0.5, 1))
            replica.backoff = min(2 * replica.backoff, MAX_BACKOFF_SECONDS)
            try:
                await self._check_health(replica)
                if self._probe is not None:
                    await self._probe(replica)
            except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, RequestFailedError):
                continue
            except InputError as error:  # it responds with other scores
                self._last_failure = str(error)
                if logged != str(error):
                    logged = str(error)
                    logger.warning("%s; it gets no requests until its scores agree", logged)
                continue
            replica.healthy = True
            self._notify()

    async def _check_health(self, replica: Replica) -> None:
        async with asyncio.timeout(CONNECT_SECONDS):
            (await self._client.get(f"{replica.url}/health")).raise_for_status()

    async def _shut_down(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.aclose()


def _error_message(response: httpx2.Response) -> str:
    """The server's error message in one line."""
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text
    return " ".join(str(message).split())[:500]
