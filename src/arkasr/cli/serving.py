"""The command that serves models over HTTP."""

from importlib.util import find_spec
from math import inf
from typing import Annotated

import typer

from arkasr.cli.app import app
from arkasr.errors import InputError

MIB = 2**20


@app.command()
def serve(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Folders or hub names; NAME=MODEL gives one another name.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 = also for other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 = any free one.", min=0, max=65535)] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(envvar="ARKASR_API_KEY", help="Key that clients must send; may be repeated. Default: none."),
    ] = None,
    engine: Annotated[str, typer.Option(help="own, or vllm: run the models in vLLM.")] = "own",
    cache_gib: Annotated[float, typer.Option(help="With vllm: memory for keys and values, GiB.")] = 4.0,
    word_times: Annotated[
        str | None,
        typer.Option(metavar="ALIGNER", help="Folder or hub name of a Qwen3 forced aligner or a Whisper model."),
    ] = None,
    memory_gib: Annotated[
        float | None,
        typer.Option(help="Most GiB of weights in memory; other models are loaded when asked for. Default: no limit."),
    ] = None,
    batch_seconds: Annotated[float, typer.Option(help="Audio seconds in the batch of all requests.", min=0)] = 240.0,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens of a piece.", min=1)] = 256,
    max_requests: Annotated[
        int, typer.Option(help="Most requests at once; others are told to come back.", min=1)
    ] = 256,
    max_upload_mib: Annotated[int, typer.Option(help="Largest upload, MiB.", min=1)] = 1024,
    max_stored_mib: Annotated[int, typer.Option(help="Uploads of all requests at once, MiB.", min=1)] = 16 * 1024,
    max_hours: Annotated[float, typer.Option(help="Longest recording, hours.", min=0)] = 12.0,
    stall_seconds: Annotated[
        float, typer.Option(help="Longest wait for a client that stops sending or reading.", min=0.1)
    ] = 30.0,
    stop_seconds: Annotated[
        int, typer.Option(help="Longest wait for accepted requests when the server stops.", min=0)
    ] = 300,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; default: the accelerator if there is one.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; default float32 on the CPU, else bfloat16.")
    ] = None,
) -> None:
    """Serve models with OpenAI's transcription interface."""
    if find_spec("uvicorn") is None or find_spec("fastapi") is None:
        raise InputError("serve needs more packages: pip install 'arkasr[serve]'")
    from arkasr.recipe.load import parse
    from arkasr.serve.server import ServerSettings, serve
    from arkasr.train.settings import EngineSettings

    decoding = parse(EngineSettings, {"engine": engine, "cache_gib": cache_gib}, "serve")
    settings = ServerSettings(
        host=host,
        port=port,
        api_keys=tuple(api_key or ()),
        engine=decoding.engine,
        cache_gib=decoding.cache_gib,
        word_times=word_times,
        memory_gib=inf if memory_gib is None else memory_gib,
        batch_seconds=batch_seconds,
        max_new_tokens=max_new_tokens,
        max_requests=max_requests,
        max_upload_bytes=max_upload_mib * MIB,
        max_stored_bytes=max_stored_mib * MIB,
        max_hours=max_hours,
        stall_seconds=stall_seconds,
        stop_seconds=stop_seconds,
        device=device,
        dtype=dtype,
    )
    serve(models, settings)
