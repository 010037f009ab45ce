"""What a request brings, in bounds: bytes and seconds count, whatever its headers say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request


class Refused(Exception):
    """`status`: of HTTP; `what`: one sentence."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(what)
        self.status, self.what = status, what


async def body_of(request: Request, most: int, seconds: float) -> bytes:
    """At most so many bytes, within so many seconds. Raises Refused."""
    too_large = Refused(413, f"the body has more than {most} bytes")
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > most:
        raise too_large if length.isdigit() else Refused(400, "the content length is no number")
    found = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                found += chunk
                if len(found) > most:
                    raise too_large
    except TimeoutError:
        raise Refused(408, f"the body took longer than {seconds:g} seconds") from None
    return bytes(found)


async def picture_in(request: Request, body: bytes) -> bytes:
    """The body itself, or the one file of a form. Raises Refused."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return body or _nothing()

    async def once() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(request.headers, once(), max_files=1, max_fields=0).parse()
    except (MultiPartException, KeyError) as error:
        why = error.message if isinstance(error, MultiPartException) else "it has no boundary"
        raise Refused(400, f"this form cannot be read: {why}") from None
    files = [value for value in form.values() if not isinstance(value, str)]
    return (await files[0].read() if files else b"") or _nothing()


def _nothing() -> bytes:
    raise Refused(
        400,
        "there is no picture in this request: send its bytes as the body, or as the one file of a form",
    )
