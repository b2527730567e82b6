"""Several servers that answer alike: who is asked, how often, and what happens when one does not answer.

In: requests. Out: answers, however many servers die and come back in between, as long as one of them answers in the
end. Knows nothing of what is asked.
"""

import logging
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from arkasr.errors import InputError

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 10.0
# Overloaded, starting or broken: another server, or the same one later, may do better. Other refusals are final.
PASSING_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


@dataclass
class Replica:
    """A server, as far as it has shown itself.

    Attributes:
        url: where it listens.
        busy: requests that it has now.
        failures: in a row.
        back_at: `time.monotonic()` from which it is asked again.
    """

    url: str
    busy: int = 0
    failures: int = 0
    back_at: float = 0.0


class Replicas:
    """Sends each request to the least busy server. One that fails is set aside, and later asked for its health first.

    The pauses double with every failure in a row, and are drawn at random between half and the whole of it, so that
    several trainers do not return at the same moment. Thread-safe.

    Args:
        urls: of the servers.
        in_flight: most requests that a server has from here at a time; further ones wait.
        timeout: seconds in which a request must be answered.
        patience: seconds without any answer from any server after which it is given up.
    """

    def __init__(self, urls: Sequence[str], *, in_flight: int, timeout: float, patience: float) -> None:
        self.replicas = [Replica(url.rstrip("/")) for url in urls]
        self.in_flight = in_flight
        self.patience = patience
        self.failures = 0
        self._over: str | None = None
        # Not the global generator: a server's failure must not change what is trained.
        self._random = random.Random()
        self._changed = threading.Condition()
        self._last_answer = time.monotonic()
        limits = httpx2.Limits(max_connections=in_flight * len(urls), max_keepalive_connections=in_flight * len(urls))
        self._client = httpx2.Client(timeout=httpx2.Timeout(timeout, connect=CONNECT_SECONDS), limits=limits)

    def post(self, path: str, body: bytes) -> Any:
        """The JSON answer to a JSON request.

        Raises:
            InputError: a server refuses the request itself, or none has answered for as long as patience lasts.
        """
        asked = time.monotonic()
        while True:
            replica = self._claim()
            reason = ""
            try:
                answer, reason = self._asked(replica, path, body)
            finally:
                self._release(replica, reason)
            if not reason:
                return answer
            self._check_patience(asked, f"{replica.url} last: {reason}")

    def give_up(self, reason: str) -> None:
        """Let every request that waits end with an `InputError` that says why, and take no more."""
        with self._changed:
            self._over = self._over or reason
            self._changed.notify_all()

    def _asked(self, replica: Replica, path: str, body: bytes) -> tuple[Any, str]:
        """The answer of one server, or in a few words why there is none."""
        try:
            if replica.failures:
                self._client.get(f"{replica.url}/health", timeout=CONNECT_SECONDS).raise_for_status()
            response = self._client.post(replica.url + path, content=body, headers={"Content-Type": "application/json"})
            if response.is_success:
                return response.json(), ""
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            return None, f"{type(error).__name__} {error}".strip()
        if response.status_code not in PASSING_STATUSES:
            raise InputError(f"teacher {replica.url} refuses with {response.status_code}: {_said(response)}")
        return None, f"status {response.status_code}"

    def _claim(self) -> Replica:
        with self._changed:
            while True:
                if self._over is not None:
                    raise InputError(self._over)
                now = time.monotonic()
                # A server that failed is tried with a single request, as soon as it may be.
                free = [
                    replica
                    for replica in self.replicas
                    if replica.back_at <= now and replica.busy < (1 if replica.failures else self.in_flight)
                ]
                if free:
                    # Equally busy ones in turn by lot: all trainers know them in the same order.
                    replica = min(free, key=lambda it: (it.failures == 0, it.busy, self._random.random()))
                    replica.busy += 1
                    return replica
                pauses = [replica.back_at - now for replica in self.replicas if replica.back_at > now]
                self._changed.wait(min(pauses, default=None))

    def _release(self, replica: Replica, reason: str) -> None:
        with self._changed:
            replica.busy -= 1
            now = time.monotonic()
            self.failures += bool(reason)
            if not reason:
                if replica.failures:
                    logger.warning("teacher %s answers again", replica.url)
                replica.failures = 0
                self._last_answer = now
            elif replica.back_at <= now:  # of requests that failed together, the first sets it aside
                if not replica.failures:
                    logger.warning("teacher %s does not answer (%s); it is tried again", replica.url, reason)
                pause = min(FIRST_PAUSE_SECONDS * 2**replica.failures, LONGEST_PAUSE_SECONDS)
                replica.back_at = now + pause * self._random.uniform(0.5, 1)
                replica.failures += 1
            self._changed.notify_all()

    def _check_patience(self, asked: float, last: str) -> None:
        silent = time.monotonic() - max(asked, self._last_answer)
        if silent > self.patience:
            urls = ", ".join(replica.url for replica in self.replicas)
            reason = (
                f"no teacher at {urls} has answered for {silent:.0f} s ({last}); start one there, or raise "
                "`served.patience_seconds`, and go on with --resume"
            )
            self.give_up(reason)
            raise InputError(reason)


def _said(response: httpx2.Response) -> str:
    """A server's reason, in one line."""
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text
    return " ".join(str(message).split())[:500]
