"""The form of a transcription request before its fields are checked: its charset, and the recording."""

import codecs

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from arkasr.serve.errors import ApiError

# Python knows codecs that are no charsets, or that cannot decode all bytes.
CHARSETS = ("utf-8", "ascii", "iso8859-1")
MOST_FIELDS = 64


async def read_form(request: Request) -> FormData:
    """The form of a request; the caller closes it.

    Raises:
        ApiError: 400, the charset is another one than UTF-8, ASCII or ISO 8859-1; 507, there is no room for the upload.
        ClientDisconnect: the client left before the end.
    """
    _check_charset(request.headers.get("content-type", ""))
    try:
        return await request.form(max_files=1, max_fields=MOST_FIELDS)
    except OSError as error:
        raise ApiError(507, f"the server cannot store the upload ({error.strerror}); try again later") from error


def _check_charset(content_type: str) -> None:
    _, parameters = parse_options_header(content_type)
    charset = parameters.get(b"charset", b"utf-8").decode("latin-1")
    try:
        is_known = codecs.lookup(charset).name in CHARSETS
    except (LookupError, ValueError):  # ValueError: a zero byte in the name
        is_known = False
    if not is_known:
        raise ApiError(400, f"the charset of the form is {charset!r}; send the form as UTF-8")


def fields_of(form: FormData) -> list[tuple[str, str]]:
    """The names and values of all fields but the recording."""
    return [(name, value) for name, value in form.multi_items() if isinstance(value, str) and name != "file"]


def recording_of(form: FormData) -> UploadFile:
    """The uploaded recording.

    Raises:
        ApiError: 400, there is none, or `file` is a text.
    """
    sent = form.getlist("file")
    if not sent:
        raise ApiError(400, "send the recording as a file in the field `file`", param="file")
    for value in sent:
        if isinstance(value, str):
            raise ApiError(400, "`file` is a text; send the recording as a file, with a file name", param="file")
    (upload,) = sent  # no request has two files
    assert isinstance(upload, UploadFile)
    return upload
