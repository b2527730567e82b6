"""What every request passes before its body is read: the key, the number of requests, the limits of its body.

Pure ASGI, because FastAPI reads a whole form before it looks at anything else.
"""

import hmac
from collections.abc import Callable, Sequence

from sse_starlette.sse import SendTimeoutError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arkasr.serve.bodies import Bodies
from arkasr.serve.browser_page import PUBLIC_PATHS
from arkasr.serve.errors import ApiError
from arkasr.serve.metrics import Metrics

OPEN_PATHS = ("/health", "/ready", *PUBLIC_PATHS)
RETRY_AFTER_SECONDS = 1
# Browsers cannot send headers with a WebSocket, so OpenAI's clients put the key among the subprotocols.
KEY_PROTOCOL = "openai-insecure-api-key."


class Guards:
    """Middleware.

    Args:
        app: what is guarded.
        api_keys: those that are let in; empty = everybody.
        max_requests: most transcription requests at once, those that wait included.
        bodies: the limits of their bodies.
        metrics: count the requests and their time.
    """

    def __init__(
        self, app: ASGIApp, *, api_keys: Sequence[str], max_requests: int, bodies: Bodies, metrics: Metrics
    ) -> None:
        self._app, self._metrics = app, metrics
        self._keys = [key.encode() for key in api_keys]
        self._max_requests, self._bodies = max_requests, bodies
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer with 401, 408, 413 or 429."""
        if scope.get("method") == "HEAD":  # the web server leaves out the body
            scope = {**scope, "method": "GET"}
        if scope["type"] == "websocket":
            await self._live(scope, receive, send)
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["method"] == "POST":
            with self._metrics.request(scope["path"]) as noted:
                await self._limited(scope, receive, noted(send))
        else:
            await self._answered(scope, receive, send, self._check_key)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket is refused before it is accepted, with a response as of HTTP."""
        try:
            self._check_key(scope)
            self._requests += 1
            try:
                self._check_number()
                await self._app(scope, receive, send)
            finally:
                self._requests -= 1
        except ApiError as error:
            await error.response()(scope, receive, send)

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        def check(scope: Scope) -> None:
            self._check_key(scope)
            self._bodies.check_length(scope)
            self._check_number()

        self._requests += 1
        try:
            with self._bodies.received(receive) as limited_receive:
                await self._answered(scope, limited_receive, send, check)
        finally:
            self._requests -= 1

    async def _answered(self, scope: Scope, receive: Receive, send: Send, check: Callable[[Scope], None]) -> None:
        answered = False

        async def noting_send(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            check(scope)
            await self._app(scope, receive, noting_send)
        except ApiError as error:
            if answered:
                raise
            await error.response()(scope, receive, send)
        except SendTimeoutError:  # the client does not read its stream; the server closes the connection
            return

    def _check_key(self, scope: Scope) -> None:
        if not self._keys or scope["path"] in OPEN_PATHS:
            return
        sent = _sent_key(scope).encode()
        # All are compared, so that the time does not tell which key was nearly right.
        if not sum(hmac.compare_digest(sent, key) for key in self._keys):
            raise ApiError(
                401,
                "the API key is missing or wrong; send it as `Authorization: Bearer KEY`",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _check_number(self) -> None:
        if self._requests > self._max_requests:
            raise ApiError(
                429,
                f"{self._max_requests} requests are in progress, which is the limit; try again later",
                code="too_many_requests",
                headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            )


def _sent_key(scope: Scope) -> str:
    for protocol in scope.get("subprotocols", []):
        if protocol.startswith(KEY_PROTOCOL):
            return protocol.removeprefix(KEY_PROTOCOL)
    scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
