"""Errors of the interface, in OpenAI's form: an HTTP status and one JSON object."""

from typing import Any

from starlette.responses import JSONResponse


class ApiError(Exception):
    """A request that cannot be answered.

    Args:
        status: HTTP status, 4xx or 5xx.
        message: what is wrong and what to do.
        param: the form field; None = not one field.
        code: for programs, such as `invalid_api_key`; None = none.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers

    def document(self) -> dict[str, Any]:
        """The body of the response."""
        return error_document(self.message, kind_of(self.status), self.param, self.code)

    def response(self) -> JSONResponse:
        """The response."""
        return JSONResponse(self.document(), self.status, self.headers)


def error_document(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """OpenAI's form of an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def kind_of(status: int) -> str:
    """OpenAI's type of the error."""
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    return kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
