"""The WebSocket route of live recognition."""

from functools import partial

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from arkasr.serve.errors import ApiError
from arkasr.serve.live.session import LiveSession
from arkasr.serve.live.settings import LiveSettings
from arkasr.serve.model_pool import ModelPool

SUBPROTOCOL = "realtime"


def live_router(models: ModelPool) -> APIRouter:
    """The route `/v1/realtime`."""
    router = APIRouter()

    @router.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket) -> None:
        """Recognise speech while it is spoken."""
        settings = LiveSettings(model=websocket.query_params.get("model"))
        try:
            session = await LiveSession.opened(models, settings, partial(_text, websocket), websocket.send_text)
        except ApiError as error:
            await websocket.send_denial_response(error.response())
            return
        offered = websocket.scope.get("subprotocols", [])
        try:
            await websocket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)
            await session.run()
        except WebSocketDisconnect:
            return

    return router


async def _text(websocket: WebSocket) -> str:
    """The next message; a message of bytes is no event and becomes an empty text."""
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message["code"])
    return message.get("text") or ""
