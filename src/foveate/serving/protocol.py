"""HTTP/1.1 with bounds on connections: uvicorn has none on heads, on their number, or on silence.

A request is bounded from its first byte: what is not yet a request has no token, no path and no
place in any queue.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 65_536  # bytes of the request line and the headers
MAX_HEADERS = 128
MAX_CONNECTIONS = 512  # processes may have 1,024 open files
MAX_PIPELINED = 8  # requests of a connection that wait for the response to another one
HEAD_SECONDS = 10.0  # from the first sign of a connection or a request to the end of its head
STALL_SECONDS = 20.0  # for which a client may leave a response unread
DRAIN_SECONDS = 5.0  # in which the rest of a request may come that was answered before its end
KEEP_ALIVE_SECONDS = 5  # between two requests
_MAX_OVERHEAD = 2  # bytes on the line for each byte of a body: chunks of one byte have six


class _Refused(Exception):
    """Leaves the parser; the response is `BoundedProtocol._refusal`."""


class BoundedProtocol(HttpToolsProtocol):
    """A connection with bounds.

    If there are as many connections as allowed, a new one takes the place of the one that has been
    waiting longest with no request: clients that only hold connections keep nobody out.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None  # for what the client has to send
        self._stall: asyncio.TimerHandle | None = None  # for what it has to read
        self._refusal, self._is_ending = HTTPStatus.BAD_REQUEST, False
        self._in_head, self._in_body = True, False
        self._received = self._counted = 0  # bytes of this request: on the line, of head and body
        self._waiting_since: float | None = self.loop.time()  # for a request; None: it has one
        self._running: Any = None  # the cycle of the request that is being answered

    # --- connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        is_full = len(self.connections) >= MAX_CONNECTIONS
        super().connection_made(transport)
        if is_full and not self._displace():
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        self._start_timer(HEAD_SECONDS, self._on_silence)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._stall is not None:
            self._stall.cancel()
        self._disconnect()
        super().connection_lost(exc)

    def _disconnect(self) -> None:
        """Tell the request that is being answered that nobody waits any more.

        uvicorn tells the last one that came, and others may be before it.
        """
        self.pipeline.clear()
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _displace(self) -> bool:
        """End a connection that waits for a request; whether there was one.

        First those that were refused and only linger, then those that wait longest.
        """
        waiting = [
            other
            for other in self.connections
            if isinstance(other, BoundedProtocol)
            and other is not self
            and other._waiting_since is not None
        ]
        if waiting:
            first = min(waiting, key=lambda other: (not other._lingers, other._waiting_since))
            first.transport.abort()
            self.connections.discard(first)
        return bool(waiting)

    @property
    def _lingers(self) -> bool:
        """Whether the last request was answered before all of it had come."""
        return self._is_ending or (self._in_body and self._waiting_since is not None)

    # --- requests

    def data_received(self, data: bytes) -> None:
        if self._is_ending or self.transport.is_closing():
            return
        self._received += len(data)
        if self._timer is None and self._in_head:
            self._start_timer(HEAD_SECONDS, self._on_silence)
        super().data_received(data)
        if self._is_ending or self.transport.is_closing():
            return
        if self._in_head and self._received > MAX_HEAD:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._in_body and self._received > 4 * MAX_HEAD + _MAX_OVERHEAD * self._counted:
            self._refuse(HTTPStatus.BAD_REQUEST)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._counted = True, 0

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        if len(self.headers) >= MAX_HEADERS:
            self._leave_parser(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self._leave_parser(HTTPStatus.TOO_MANY_REQUESTS)
        self._in_head, self._in_body, self._waiting_since = False, True, None
        self._stop_timer()
        super().on_headers_complete()
        self.cycle.transport = cast(asyncio.Transport, _LingeringTransport(self))

    def on_body(self, body: bytes) -> None:
        self._counted += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head, self._in_body, self._received = True, False, 0
        if self.cycle.response_complete:  # what was left of it has come
            self._stop_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_ending or self.transport.is_closing() or self.pipeline:
            return
        if not self.cycle.response_complete:
            return
        self._waiting_since = self.loop.time()
        if self._in_body:
            self._start_timer(DRAIN_SECONDS, self._on_silence)

    def _count_head(self, size: int) -> None:
        self._counted += size
        if self._in_head and self._counted > MAX_HEAD:
            self._leave_parser(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _leave_parser(self, status: HTTPStatus) -> None:
        self._refusal = status
        raise _Refused

    def send_400_response(self, msg: str) -> None:
        """Respond to what the parser, or a bound, refuses."""
        self._refuse(self._refusal)

    def _refuse(self, status: HTTPStatus) -> None:
        """Send an error and end the connection; without it if a response is on its way."""
        running = self._running
        is_responding = running is not None and not running.response_complete
        if not is_responding or not running.response_started:
            text = f'{{"error":"{status.phrase.lower()}"}}'.encode()
            head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            head += f"content-length: {len(text)}\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode() + text)
        self._disconnect()  # its response has nowhere to go
        self._end()

    def _end(self) -> None:
        """Send no more, drop what comes, and close the connection a little later.

        Closing at once would reset the connection of a client that is still sending, which would
        then not see the response.
        """
        self._is_ending, self._waiting_since = True, self.loop.time()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._start_timer(DRAIN_SECONDS, self.transport.close)

    # --- time

    def _start_timer(self, seconds: float, action: Any) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, action)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_silence(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self._in_head and self._received:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # closing would wait for its reader
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def end_response(self) -> None:
        """Close the connection after a response, once the rest of its request has come."""
        if self._in_body:
            self._end()
        else:
            self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: the request is answered as one without an upgrade."""


class _LingeringTransport:
    """What uvicorn writes a response to."""

    def __init__(self, protocol: BoundedProtocol) -> None:
        self._protocol, self.write = protocol, protocol.transport.write

    def is_closing(self) -> bool:
        return self._protocol.transport.is_closing()

    def close(self) -> None:
        self._protocol.end_response()
