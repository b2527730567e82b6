"""Numbers for Prometheus: requests, seconds of audio, and what waits."""

from collections.abc import Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from arkasr.serve.speech_model import SpeechModel

LATENCY_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Metrics:
    """The numbers of one server.

    Attributes:
        registry: what `/metrics` shows.
        requests: transcription requests by HTTP status; 499 = the client left.
        seconds: from the end of the upload to the last byte of the answer.
        audio_seconds: transcribed, by model.
    """

    def __init__(self, models: Mapping[str, SpeechModel]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("arkasr_requests", "Transcription requests.", ["status"], registry=self.registry)
        self.seconds = Histogram(
            "arkasr_request_seconds", "From upload to answer.", buckets=LATENCY_SECONDS, registry=self.registry
        )
        self.audio_seconds = Counter(
            "arkasr_audio_seconds", "Seconds of audio transcribed.", ["model"], registry=self.registry
        )
        clips = Gauge("arkasr_clips", "Pieces of recordings.", ["model", "state"], registry=self.registry)
        for name, model in models.items():
            clips.labels(name, "waiting").set_function(partial(getattr, model.engine, "waiting"))
            clips.labels(name, "active").set_function(partial(getattr, model.engine, "active"))
