"""The bodies of requests while they arrive: how large each is, how slow, and how much all of them take on the disk."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from arkasr.serve.errors import ApiError

# A body may arrive no slower than this on average, else a byte now and then would keep a request for ever.
SLOWEST_BYTES_PER_SECOND = 1024
RETRY_AFTER_SECONDS = 10


class Bodies:
    """Limits of the bodies of all requests.

    Args:
        max_bytes: of one body.
        max_stored_bytes: of all bodies that the server holds at once.
        stall_seconds: longest wait for the next part of a body, and how much later than at the slowest acceptable
            speed a part may come.
    """

    def __init__(self, *, max_bytes: int, max_stored_bytes: int, stall_seconds: float) -> None:
        self._max_bytes, self._max_stored_bytes, self._stall_seconds = max_bytes, max_stored_bytes, stall_seconds
        self._stored = 0

    def check_length(self, scope: Scope) -> None:
        """Check the length that a request announces.

        Raises:
            ApiError: 413, it is too large; 429, there is no room for it now.
        """
        length = Headers(scope=scope).get("content-length", "")
        if length.isdigit():
            self._check(int(length), self._stored + int(length))

    @contextmanager
    def received(self, receive: Receive) -> Iterator[Receive]:
        """`receive` of one request, with the limits: it raises ApiError 408, 413 or 429.

        The body counts as stored until the context ends.
        """
        begin, size, is_complete = monotonic(), 0, False

        async def limited() -> Message:
            nonlocal size, is_complete
            if is_complete:  # what follows is that the client leaves
                return await receive()
            patience = self._stall_seconds + size / SLOWEST_BYTES_PER_SECOND - (monotonic() - begin)
            try:
                async with asyncio.timeout(min(patience, self._stall_seconds)):
                    message = await receive()
            except TimeoutError as error:
                raise _too_slow(self._stall_seconds) from error
            length = len(message.get("body", b""))
            size += length
            self._stored += length
            is_complete = not message.get("more_body", False)
            self._check(size, self._stored)
            return message

        try:
            yield limited
        finally:
            self._stored -= size

    def _check(self, size: int, stored: int) -> None:
        if size > self._max_bytes:
            raise ApiError(
                413,
                f"the upload is larger than {self._max_bytes} bytes, the limit of this server; send a compressed "
                "format, or parts",
                param="file",
            )
        if stored > self._max_stored_bytes:
            raise ApiError(
                429,
                f"the uploads of all requests have {self._max_stored_bytes} bytes, the limit of this server; try again "
                "later",
                code="too_many_uploads",
                headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            )


def _too_slow(stall_seconds: float) -> ApiError:
    return ApiError(
        408,
        f"the request stopped arriving for {stall_seconds:g} s, or is slower than {SLOWEST_BYTES_PER_SECOND} bytes per "
        "second; send it again",
        code="request_timeout",
        headers={"Connection": "close"},
    )
