"""The routes of the server: OpenAI's transcriptions, models, health, metrics."""

from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sse_starlette import EventSourceResponse
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response

from arkasr import __version__
from arkasr.errors import InputError
from arkasr.serve.browser_page import browser_page
from arkasr.serve.description import REFUSALS, TRANSCRIPTION
from arkasr.serve.errors import ApiError, error_document, kind_of
from arkasr.serve.forms import fields_of, read_form, recording_of
from arkasr.serve.job import Job, unless_client_leaves
from arkasr.serve.live.route import live_router
from arkasr.serve.metrics import CLIENT_LEFT, TRANSCRIPTIONS, Metrics
from arkasr.serve.model_pool import FIRST_MODEL, ModelPool
from arkasr.serve.options import Options, parse_options
from arkasr.serve.speech_model import SpeechModel
from arkasr.serve.uploads import path_of


def build_app(models: ModelPool, metrics: Metrics, *, stall_seconds: float) -> FastAPI:
    """The application.

    Args:
        models: of the server.
        metrics: of the server.
        stall_seconds: longest wait for a client that does not read its stream.
    """
    # FastAPI's pages for the description load scripts from elsewhere.
    app = FastAPI(
        title="arkasr",
        version=__version__,
        summary="Transcription with OpenAI's interface.",
        docs_url=None,
        redoc_url=None,
    )
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)

    app.include_router(browser_page())
    app.include_router(live_router(models))

    @app.post(TRANSCRIPTIONS, openapi_extra=TRANSCRIPTION)
    async def transcribe(request: Request) -> Response:
        """Transcribe a recording."""
        try:
            form = await read_form(request)
        except ClientDisconnect:
            return Response(status_code=CLIENT_LEFT)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(form.close)
            job = await unless_client_leaves(request, _job(form, stack, models, metrics))
            if job is None:
                return Response(status_code=CLIENT_LEFT)
            if job.options.stream:
                return EventSourceResponse(job.events(stack.pop_all()), send_timeout=stall_seconds)
            return await unless_client_leaves(request, job.answer()) or Response(status_code=CLIENT_LEFT)

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """The models of this server."""
        return {"object": "list", "data": [_description(models, name) for name in models.names]}

    @app.get("/v1/models/{name:path}", responses=REFUSALS)
    async def describe_model(name: str) -> dict[str, Any]:
        """One model of this server."""
        return _description(models, models.name_of(name))

    @app.get("/token-mask", responses=REFUSALS)
    async def show_token_mask(model: str = FIRST_MODEL) -> dict[str, Any]:
        """The token ids that a model never writes, for programs that score its tokens."""
        async with models.lend(model) as found:
            allowed = found.allowed_tokens
        return {"model": found.name, "vocab_size": len(allowed), "blocked": (~allowed).nonzero()[:, 0].tolist()}

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """Whether the models work; nothing is answered before they are loaded."""
        if models.is_broken:
            raise ApiError(503, "a model failed; its next request loads it again, or restart the server")
        return {"status": "ready"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        """Numbers for Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


async def _job(form: FormData, stack: AsyncExitStack, models: ModelPool, metrics: Metrics) -> Job:
    options = parse_options(fields_of(form))
    upload = recording_of(form)
    model = await stack.enter_async_context(models.lend(str(form.get("model") or FIRST_MODEL)))
    _check_abilities(options, model)
    path = stack.enter_context(path_of(upload.file))
    return Job(model, path, upload.filename or "the recording", options, metrics)


def _check_abilities(options: Options, model: SpeechModel) -> None:
    """Refuse what this model cannot do."""
    for param, check in (
        ("language", partial(model.check_language, options.language)),
        ("prompt", partial(model.context_ids, options)),
    ):
        try:
            check()
        except InputError as error:
            raise ApiError(400, str(error), param=param) from error
    if options.word_times and model.aligner is None:
        raise ApiError(
            400,
            "this server has no word times; start it with --word-times, or leave out `word`",
            param="timestamp_granularities[]",
        )


def _description(models: ModelPool, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": models.created, "owned_by": "arkasr"}


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    document = error_document(str(error.detail), kind_of(error.status_code))
    return JSONResponse(document, error.status_code, error.headers)


async def _validation_error(request: Request, error: Exception) -> Response:
    return JSONResponse(error_document("the request has the wrong form", kind_of(400)), 400)
