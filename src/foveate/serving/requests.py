"""The body of a request, within limits: bytes and seconds are counted, whatever the headers say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request


class RequestError(Exception):
    """A request that is refused.

    Attributes:
        status: HTTP status code.
        message: One sentence for the client.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


async def read_body(request: Request, max_bytes: int, timeout: float) -> bytes:
    """Read the body of a request.

    Args:
        request: The request.
        max_bytes: Greatest size.
        timeout: Seconds in which it has to arrive.

    Raises:
        RequestError: It is larger (413) or slower (408), or the length is not a number (400).
    """
    too_large = RequestError(413, f"the request body is larger than {max_bytes} bytes")
    length = request.headers.get("content-length", "0")
    if not length.isdigit():
        raise RequestError(400, "the header Content-Length is not a number")
    if int(length) > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(timeout):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise too_large
    except TimeoutError:
        raise RequestError(
            408, f"the request body did not arrive within {timeout:g} seconds"
        ) from None
    return bytes(body)


async def extract_image(request: Request, body: bytes) -> bytes:
    """Return the body itself, or the one file of a form.

    Raises:
        RequestError: There is no image, or the form is invalid (400).
    """
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        body = await _file_of_form(request, body)
    if not body:
        raise RequestError(
            400,
            "the request contains no image; "
            "send its bytes as the body, or as the only file of a form",
        )
    return body


async def _file_of_form(request: Request, body: bytes) -> bytes:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(request.headers, stream(), max_files=1, max_fields=0).parse()
    except (MultiPartException, KeyError) as error:
        why = error.message if isinstance(error, MultiPartException) else "it has no boundary"
        raise RequestError(400, f"the form is invalid: {why}") from None
    files = [value for value in form.values() if not isinstance(value, str)]
    return await files[0].read() if files else b""
