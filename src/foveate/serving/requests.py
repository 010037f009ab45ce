"""Bodies of requests, within limits: bytes and seconds are counted, whatever the headers say."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

MAX_ARRIVING = 256  # bodies on their way
MIN_RATE = 10_000  # bytes a second that a body has to arrive with ...
HEAD_START = 5.0  # ... after so many seconds
_STILL = 0.25  # seconds without progress after which a body may be cut for another one


class RequestError(Exception):
    """A request that is refused.

    Attributes:
        status: HTTP status code.
        message: One sentence for the client.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(eq=False)
class _Arriving:
    """A body on its way.

    Attributes:
        address: Of the client.
        timeout: Ends the reading.
        progress: When it last had MIN_RATE bytes more than before.
        marked: Its bytes at that time.
        was_cut: Whether another body took its place.
    """

    address: str
    timeout: asyncio.Timeout
    progress: float
    marked: int = 0
    was_cut: bool = False

    def grow(self, size: int, now: float) -> None:
        if size - self.marked >= MIN_RATE:
            self.marked, self.progress = size, now


class Body:
    """The bytes of a body, which are taken once; its size remains counted."""

    def __init__(self) -> None:
        self._content, self.size = bytearray(), 0

    def add(self, chunk: bytes) -> None:
        self._content += chunk
        self.size += len(chunk)

    def take(self) -> bytes:
        content = bytes(self._content)
        self._content = bytearray()
        return content


class Bodies:
    """The bodies of all requests, from their first byte to the response.

    If there is no place left for a new body or its bytes, the one that has made no progress for the
    longest time is cut, of the address that has most of them on their way: who sends slowly, or
    nothing, keeps nobody else out.

    Args:
        max_bytes: Greatest size of one body.
        max_total: Greatest size of all bodies together.
        seconds: In which a body has to arrive.

    Attributes:
        held: Bytes of all bodies.
    """

    def __init__(self, max_bytes: int, max_total: int, seconds: float) -> None:
        self.max_bytes, self.max_total, self.seconds = max_bytes, max_total, seconds
        self.held = 0
        self._arriving = set[_Arriving]()

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[Body]:
        """Read a body, which counts as held until the context ends.

        Raises:
            RequestError: It is larger than allowed (413) or slower (408), the length is not a
                number (400), or there is no place for it (429).
        """
        length = request.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise RequestError(400, "the header Content-Length is not a number")
        if len(length) > len(str(self.max_bytes)) or int(length) > self.max_bytes:
            raise self._too_large()
        body = Body()
        try:
            await self._fill(body, request)
            yield body
        finally:
            self.held -= body.size

    async def _fill(self, body: Body, request: Request) -> None:
        loop = asyncio.get_running_loop()
        start, address = loop.time(), request.client.host if request.client else ""
        if len(self._arriving) >= MAX_ARRIVING and not self._cut_one(address):
            raise RequestError(429, "too many requests are on their way; try again later")
        try:
            async with asyncio.timeout_at(start + min(HEAD_START, self.seconds)) as timeout:
                arriving = _Arriving(address, timeout, start)
                self._arriving.add(arriving)
                async for chunk in request.stream():
                    self._make_room(len(chunk), body.size, arriving)
                    body.add(chunk)
                    self.held += len(chunk)
                    arriving.grow(body.size, loop.time())
                    allowed = min(HEAD_START + body.size / MIN_RATE, self.seconds)
                    if not arriving.was_cut:
                        timeout.reschedule(start + allowed)
        except TimeoutError:
            raise self._too_slow(arriving, loop.time() - start) from None
        finally:
            self._arriving.discard(arriving)

    def _make_room(self, more: int, size: int, arriving: _Arriving) -> None:
        """Check the bounds for a body of `size` bytes that has `more`."""
        if size + more > self.max_bytes:
            raise self._too_large()
        if self.held + more > self.max_total and not (
            self._cut_one(arriving.address, arriving)
            and self.held + more <= self.max_total + self.max_bytes
        ):
            raise RequestError(429, "too many bytes are in flight; try again later")

    def _cut_one(self, address: str, new: _Arriving | None = None) -> bool:
        """Cut a body for one from an address; whether there was one to cut.

        Of its own address, and of those with about as many, only what stands still is cut.
        """
        now = asyncio.get_running_loop().time()
        counts = Counter(each.address for each in self._arriving)
        candidates = [
            each
            for each in self._arriving
            if each is not new
            and not each.was_cut
            and (each.progress < now - _STILL or counts[each.address] > 2 * counts[address] + 2)
        ]
        if not candidates:
            return False
        victim = min(candidates, key=lambda each: (-counts[each.address], each.progress))
        victim.was_cut = True
        victim.timeout.reschedule(now)
        return True

    def _too_large(self) -> RequestError:
        return RequestError(413, f"the request body is larger than {self.max_bytes} bytes")

    def _too_slow(self, arriving: _Arriving, seconds: float) -> RequestError:
        if arriving.was_cut:
            return RequestError(408, "the request body was too slow, and others needed its place")
        return RequestError(
            408,
            f"the request body did not arrive within {self.seconds:g} seconds, or "
            f"with less than {MIN_RATE:,} bytes a second",
        )


async def extract_image(request: Request, content: bytes) -> bytes:
    """Return the body itself, or the one file of a form.

    Raises:
        RequestError: There is no image, or the form is invalid (400).
    """
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        content = await _file_of_form(request, content)
    if not content:
        raise RequestError(
            400,
            "the request contains no image; "
            "send its bytes as the body, or as the only file of a form",
        )
    return content


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
