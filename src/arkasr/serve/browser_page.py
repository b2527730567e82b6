"""The page for trying the server in a browser: three files of this package, and the names of the languages."""

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
}
PUBLIC_PATHS = (*FILES, "/languages.json")
router = APIRouter(include_in_schema=False)


def _file(name: str, media_type: str) -> Response:
    content = files("arkasr.serve").joinpath("page", name).read_bytes()
    return Response(
        content,
        media_type=media_type,
        headers={"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"},
    )


@router.get("/")
async def page() -> Response:
    """The page."""
    return _file(*FILES["/"])


@router.get("/page.css")
async def style() -> Response:
    """Its style sheet."""
    return _file(*FILES["/page.css"])


@router.get("/page.js")
async def script() -> Response:
    """Its script."""
    return _file(*FILES["/page.js"])


@router.get("/languages.json")
async def languages() -> list[str]:
    """Names of the languages that `language` may have."""
    return sorted(LANGUAGE_CODES)
