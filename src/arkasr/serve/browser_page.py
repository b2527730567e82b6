"""The page for trying the server in a browser: files of this package, and the names of the languages."""

from functools import partial
from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import Response

from arkasr.data.languages import LANGUAGE_CODES

# Nothing is loaded from elsewhere, and no other page can embed this one.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; media-src blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/microphone.js": ("microphone.js", "text/javascript"),
}
PUBLIC_PATHS = (*FILES, "/languages.json")


def browser_page() -> APIRouter:
    """The routes of the page; they need no key."""
    router = APIRouter(include_in_schema=False)
    for path, (name, media_type) in FILES.items():
        router.add_api_route(path, partial(_file, name, media_type), methods=["GET"])
    router.add_api_route("/languages.json", _languages, methods=["GET"])
    return router


def _file(name: str, media_type: str) -> Response:
    content = files("arkasr.serve").joinpath("page", name).read_bytes()
    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return Response(content, media_type=media_type, headers=headers)


def _languages() -> list[str]:
    return sorted(LANGUAGE_CODES)
