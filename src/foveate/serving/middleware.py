"""What is done around every request: early refusals, errors in one sentence, counts, log."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import time
import uuid

from fastapi import Response
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, QueryParams
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foveate.errors import BrokenImage, UsageError
from foveate.serving.batching import QueueFull
from foveate.serving.requests import RequestError
from foveate.serving.state import ServerState

PAGE = ("/", "/page.js", "/drawing.js", "/page.css")
IMAGE_ROUTES = ("/predict", "/explain")
CLIENT_CLOSED_REQUEST = 499  # as nginx logs it
_WITHOUT_TOKEN = ("/v2/health/", "/metrics")  # beginnings of paths
_MAX_QUERY = 4096  # bytes
_HEADERS = ((b"x-content-type-options", b"nosniff"),)  # of every response
log = logging.getLogger("foveate.serve")


class RequestMiddleware:
    """Refuses requests early, turns errors into one sentence, counts and logs.

    Args:
        app: The application.
        state: The state of the server.
    """

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, request_id, status = time.perf_counter(), uuid.uuid4().hex[:12], 0

        async def respond(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    *_HEADERS,
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        self.state.running += 1
        try:
            await (_refuse_early(self.state, scope) or self.app)(scope, receive, respond)
        except (Exception, asyncio.CancelledError) as error:
            if status:  # the response has begun
                raise
            await _response_to(error, request_id)(scope, receive, respond)
        finally:
            self.state.running -= 1
        self._record(scope, request_id, status, time.perf_counter() - start)

    def _record(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        # names of unknown paths do not become labels: anybody could make millions of them
        path = scope["path"] if scope["path"] in IMAGE_ROUTES else "other"
        route = getattr(scope.get("route"), "path", path)
        self.state.requests.labels(route, str(status)).inc()
        self.state.request_seconds.labels(route).observe(seconds)
        entry = {"id": request_id, "method": scope["method"], "path": route, "status": status}
        log.info(json.dumps({**entry, "ms": round(1000 * seconds, 1)}))


def _response_to(error: BaseException, request_id: str) -> Response:
    match error:
        case ClientDisconnect():
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        case asyncio.CancelledError():
            return _shutting_down()
        case RequestError():
            return error_response(error.status, error.message)
        case BrokenImage() | UsageError():
            return error_response(400, error.brief)
        case QueueFull():
            return _queue_full()
    log.error(json.dumps({"id": request_id, "error": "unexpected"}), exc_info=error)
    return error_response(
        500, f"an unexpected error occurred; the log of the server has it as {request_id}"
    )


def _refuse_early(state: ServerState, scope: Scope) -> Response | None:
    """Refuse a request before anything of it is read, which is cheap even in a flood."""
    path, headers = scope["path"], Headers(scope=scope)
    refusal = _refuse_address(state, scope, headers.getlist("host"))
    if refusal is not None:
        return refusal
    is_open = path.startswith(_WITHOUT_TOKEN)
    if not is_open and path not in PAGE and not has_token(state, headers):
        return error_response(
            401,
            "missing or wrong token; send 'Authorization: Bearer TOKEN'",
            {"www-authenticate": "Bearer"},
        )
    if state.draining and not is_open:
        return _shutting_down()
    if path in IMAGE_ROUTES and scope["method"] == "POST":
        name = QueryParams(scope["query_string"]).get("model") or state.first_model
        batcher = state.batchers.get(name)
        return _queue_full() if batcher is not None and batcher.is_full else None
    return None


def _refuse_address(state: ServerState, scope: Scope, hosts: list[str]) -> Response | None:
    """Refuse a request for another server: a page of another site must not reach this one.

    A browser lets a page ask the name it came from, and who owns a name can point it anywhere.
    """
    if len(scope["query_string"]) > _MAX_QUERY:
        return error_response(414, "the query is too long")
    if len(hosts) != 1:
        if not hosts and scope["http_version"] == "1.0":  # has no such header; browsers have
            return None
        return error_response(400, "send one header Host")
    name = re.sub(r":\d*$", "", hosts[0]).strip("[]").rstrip(".").lower()
    # the address of this side of the connection; IPv6 writes those of IPv4 in its own way
    own = (scope.get("server") or ("",))[0].removeprefix("::ffff:")
    known = {"localhost", own, *(each.lower() for each in state.limits.hosts)}
    if name in known or "*" in known:
        return None
    return error_response(421, "this server has another name; see --allowed-host")


def has_token(state: ServerState, headers: Headers) -> bool:
    """Whether a request brings the token, or none is needed."""
    sent = headers.get("authorization", "").removeprefix("Bearer ")
    return hmac.compare_digest(sent.encode(), state.limits.token.encode()) or not state.limits.token


def _shutting_down() -> JSONResponse:
    return error_response(503, "the server is shutting down", {"retry-after": "5"})


def _queue_full() -> JSONResponse:
    return error_response(429, "too many images in flight; try again later", {"retry-after": "1"})


def error_response(
    status: int, message: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Return an error as JSON."""
    return JSONResponse({"error": message}, status, headers)
