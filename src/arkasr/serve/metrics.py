"""Numbers for Prometheus: requests, seconds of audio, and what waits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import Message, Send

from arkasr.serve.model_pool import ModelPool

TRANSCRIPTIONS = "/v1/audio/transcriptions"  # the route
CLIENT_LEFT = 499  # the status of a request whose client did not wait for the answer
LATENCY_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Metrics:
    """The numbers of one server.

    Attributes:
        registry: what `/metrics` shows.
        requests: those that send something (POST), by route and HTTP status, refused ones included; 499 = the client
            left.
        seconds: from the first byte of such a request to the last of the answer, by route.
        audio_seconds: transcribed, by model.
    """

    def __init__(self, models: ModelPool) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "arkasr_requests", "POST requests, refused ones included.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "arkasr_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ["route"],
            buckets=LATENCY_SECONDS,
            registry=self.registry,
        )
        self.audio_seconds = Counter(
            "arkasr_audio_seconds", "Seconds of audio transcribed.", ["model"], registry=self.registry
        )
        clips = Gauge("arkasr_clips", "Pieces of recordings.", ["model", "state"], registry=self.registry)
        weights = Gauge(
            "arkasr_model_bytes", "Bytes of a model; 0 if it is not loaded.", ["model"], registry=self.registry
        )
        for name in models.names:
            weights.labels(name).set_function(partial(models.bytes_of, name))
            for state in ("waiting", "active"):
                clips.labels(name, state).set_function(partial(models.clips_of, name, state))

    @contextmanager
    def request(self, path: str) -> Iterator[Callable[[Send], Send]]:
        """Count and time a request; the function that it gives notes the status that is sent."""
        route = path if path == TRANSCRIPTIONS else "other"  # clients may send any path
        begin, status = perf_counter(), CLIENT_LEFT

        def noted(send: Send) -> Send:
            async def noting(message: Message) -> None:
                nonlocal status
                status = message.get("status", status)
                await send(message)

            return noting

        try:
            yield noted
        finally:
            self.requests.labels(route, str(status)).inc()
            self.seconds.labels(route).observe(perf_counter() - begin)
