"""Loads the models and runs the server until it is stopped; accepted requests are finished."""

import errno
import math
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import uvicorn
from sse_starlette.sse import AppStatus

from arkasr.errors import InputError, Interrupted
from arkasr.recognizers.device import device_named
from arkasr.recognizers.load import load_recognizer
from arkasr.recognizers.precision import default_dtype, dtype_named
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.scoring import check_transcript_length
from arkasr.serve.app import build_app
from arkasr.serve.bodies import Bodies
from arkasr.serve.engine import Decoder, Engine
from arkasr.serve.guards import Guards
from arkasr.serve.metrics import Metrics
from arkasr.serve.model_pool import GIB, ModelPool
from arkasr.serve.speech_model import SpeechModel
from arkasr.transcribe.aligner import open_aligner
from arkasr.vllm.continuous import VllmDecoder
from arkasr.vllm.local import LocalVllm


@dataclass(frozen=True)
class ServerSettings:
    """How to serve.

    Attributes:
        host: address to listen on.
        port: to listen on.
        api_keys: of clients; empty = everybody may ask.
        engine: "own", or "vllm" for models that it can run.
        cache_gib: with vLLM: memory for keys and values of each model.
        word_times: folder or hub name of an aligner; None = no word times.
        memory_gib: most GiB of the weights of all loaded models; with vLLM, also of their keys and values.
        batch_seconds: most seconds of audio in a batch.
        max_new_tokens: most tokens of a piece.
        max_requests: most requests at once, those that wait included.
        max_upload_bytes: most bytes of a request.
        max_stored_bytes: most bytes of all requests at once.
        stall_seconds: longest wait for a client that stops sending or reading.
        stop_seconds: longest wait for accepted requests when the server stops.
        max_hours: of a recording.
        device: such as "cuda"; None = the accelerator, or the CPU.
        dtype: of the weights; None = float32 on the CPU, else bfloat16.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    engine: Literal["own", "vllm"] = "own"
    cache_gib: float = 4.0
    word_times: str | None = None
    memory_gib: float = math.inf
    batch_seconds: float = 240.0
    max_new_tokens: int = 256
    max_requests: int = 256
    max_upload_bytes: int = 2**30
    max_stored_bytes: int = 2**34
    stall_seconds: float = 30.0
    stop_seconds: int = 300
    max_hours: float = 12.0
    device: str | None = None
    dtype: str | None = None


def model_names(sources: Sequence[str]) -> dict[str, str]:
    """Folder or hub name of each model, by the name that clients use: `NAME=MODEL`, or the last part of the path.

    Raises:
        InputError: two models have the same name.
    """
    named: dict[str, str] = {}
    for argument in sources:
        name, _, source = argument.rpartition("=")
        name = name or Path(source).name or source
        if name in named:
            raise InputError(f"two models are named {name!r}; give one of them another name: NAME={source}")
        named[name] = source
    return named


def model_pool(named: Mapping[str, str], settings: ServerSettings) -> ModelPool:
    """The models, which are loaded when the pool is entered.

    Raises:
        InputError: device, dtype or aligner is not there. On entering: a model cannot be loaded, cannot write so many
            tokens, or is too large.
    """
    device = device_named(settings.device)
    dtype = dtype_named(settings.dtype) if settings.dtype else default_dtype(device)
    aligner = open_aligner(settings.word_times, device=str(device), dtype=dtype) if settings.word_times else None

    # vLLM needs the accelerator's memory for itself.
    in_vllm = settings.engine == "vllm"
    model_device = "cpu" if in_vllm else str(device)

    def vllm_decoder(recognizer: Recognizer) -> AbstractContextManager[Decoder]:
        vllm = LocalVllm(
            recognizer,
            max_new_tokens=settings.max_new_tokens,
            dtype=str(dtype).removeprefix("torch."),
            cache_gib=settings.cache_gib,
        )
        return closing(VllmDecoder(recognizer, vllm))

    @contextmanager
    def opened(name: str, source: str) -> Iterator[SpeechModel]:
        recognizer = load_recognizer(source, device=model_device, dtype=dtype)
        check_transcript_length(recognizer, settings.max_new_tokens, "--max-new-tokens")
        cache_bytes = int(settings.cache_gib * GIB) if in_vllm else 0
        with Engine(
            recognizer,
            partial(vllm_decoder, recognizer) if in_vllm else None,
            batch_seconds=settings.batch_seconds,
            cache_bytes=cache_bytes,
        ) as engine:
            model = SpeechModel(
                name,
                recognizer,
                engine,
                max_new_tokens=settings.max_new_tokens,
                longest_seconds=settings.max_hours * 3600,
                aligner=aligner,
            )
            with closing(model):
                yield model

    openers = {name: partial(opened, name, source) for name, source in named.items()}
    return ModelPool(openers, max_bytes=settings.memory_gib * GIB)


def serve(sources: Sequence[str], settings: ServerSettings) -> None:
    """Serve until a signal; then finish the accepted requests.

    Raises:
        InputError: the address is in use, a setting is wrong, or as `model_names` and `model_pool`.
    """
    named = model_names(sources)
    if not settings.batch_seconds > 0:
        raise InputError(f"--batch-seconds is {settings.batch_seconds:g}; it must be more than 0")
    if not settings.memory_gib > 0:
        raise InputError(f"--memory-gib is {settings.memory_gib:g}; it must be more than 0")
    if settings.engine == "vllm" and settings.device is not None:
        raise InputError("--device does not reach vLLM; leave it out, and choose a GPU with CUDA_VISIBLE_DEVICES")
    if settings.max_stored_bytes < settings.max_upload_bytes:
        raise InputError("--max-stored-mib is less than --max-upload-mib; give at least as much")
    for key in settings.api_keys:
        if not key or not key.isascii() or key != key.strip():
            raise InputError("--api-key: empty, not ASCII or with blanks around it; give another one")
    with listening(settings) as listener, model_pool(named, settings) as models:
        # A client of a live session whose audio waits cannot answer pings.
        config = uvicorn.Config(
            guarded_app(models, settings),
            log_level="warning",
            server_header=False,
            ws_ping_timeout=None,
            timeout_graceful_shutdown=settings.stop_seconds,
        )
        AppStatus.disable_automatic_graceful_drain()  # streams, too, are finished
        host, port = listener.getsockname()[:2]
        print(f"arkasr: serving {', '.join(models.names)} at http://{host}:{port}", flush=True)
        # Uvicorn sends itself the signal again when it has finished.
        with suppress(Interrupted, KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def guarded_app(models: ModelPool, settings: ServerSettings) -> Guards:
    """The application with its limits."""
    metrics = Metrics(models)
    return Guards(
        build_app(models, metrics, stall_seconds=settings.stall_seconds),
        api_keys=settings.api_keys,
        max_requests=settings.max_requests,
        bodies=Bodies(
            max_bytes=settings.max_upload_bytes,
            max_stored_bytes=settings.max_stored_bytes,
            stall_seconds=settings.stall_seconds,
        ),
        metrics=metrics,
    )


def listening(settings: ServerSettings) -> socket.socket:
    """A socket at the address, before models are loaded for nothing."""
    try:
        return socket.create_server((settings.host, settings.port))
    except (OSError, UnicodeError) as error:
        is_port = getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES)
        remedy = "give another --port" if is_port else "give an IPv4 address of this machine as --host"
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot listen on {settings.host}:{settings.port} ({reason}); {remedy}") from error
