"""The addresses of the server, and what each answers."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foveate.errors import BrokenImage, UsageError
from foveate.serving import kserve as v2
from foveate.serving.batching import Batcher, Busy, Threads
from foveate.serving.engines import Engine
from foveate.serving.requests import Refused, body_of, picture_in
from foveate.version import __version__

_OPEN = ("/v2/health/", "/metrics")  # without a token
_PAGE = ("/", "/page.js", "/painting.js", "/page.css")
_QUESTIONS = ("/predict", "/explain")
_EVERY = ((b"x-content-type-options", b"nosniff"),)  # headers of every answer
_GONE = 499  # the client went away, as nginx writes it
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; media-src blob:"
_KINDS = {"js": "text/javascript", "css": "text/css"}
log = logging.getLogger("foveate.serve")


@dataclass(frozen=True)
class Limits:
    """`batch`: pictures at once; `wait`: seconds for which a first one waits for others; `room`: pictures inside at the most;
    `bytes`: of a body; `seconds`: for a body to arrive; `token`: that requests have to bring, empty for none."""

    batch: int = 32
    wait: float = 0.03
    room: int = 64
    bytes: int = 20_000_000
    seconds: float = 20.0
    token: str = ""


@dataclass
class State:
    """`draining`: nothing new is taken. `running`: requests that are being answered."""

    batchers: dict[str, Batcher]
    limits: Limits
    draining: bool = False
    running: int = 0
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.requests = Counter(
            "foveate_requests",
            "Answers by path and status.",
            ["path", "status"],
            registry=self.registry,
        )
        self.times = Histogram(
            "foveate_seconds", "From the request to its answer.", ["path"], registry=self.registry
        )
        inside = Gauge(
            "foveate_inside",
            "Pictures that wait or are being answered.",
            ["model"],
            registry=self.registry,
        )
        for name, batcher in self.batchers.items():
            inside.labels(name).set_function(lambda batcher=batcher: batcher.inside)  # type: ignore[misc]


def app_of(engines: dict[str, Engine], limits: Limits) -> FastAPI:
    threads = Threads()
    batchers = {
        name: Batcher(engine, limits.batch, limits.wait, limits.room, threads)
        for name, engine in engines.items()
    }
    state = State(batchers, limits)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.callback(threads.stop)
            for batcher in batchers.values():
                batcher.start()
                stack.push_async_callback(batcher.stop)
            yield

    app = FastAPI(
        title="Foveate", version=__version__, lifespan=life, docs_url=None, redoc_url=None
    )
    app.state.foveate = state
    app.add_middleware(Guard, state=state)
    _pages(app, state)
    _predict(app, state)
    _protocol(app, state)
    return app


# --- around every request


class Guard:
    """Refuses what can be refused before anything is read, makes one sentence of what goes wrong, counts, and writes the log."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, number, status = time.perf_counter(), uuid.uuid4().hex[:12], 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    *_EVERY,
                    (b"x-request-id", number.encode()),
                ]
            await send(message)

        self.state.running += 1
        try:
            await (_refused(self.state, scope) or self.app)(scope, receive, answer)
        except Exception as error:
            if status:  # the answer has begun
                raise
            await _told(error, number)(scope, receive, answer)
        finally:
            self.state.running -= 1
        self._note(scope, number, status, time.perf_counter() - start)

    def _note(self, scope: Scope, number: str, status: int, seconds: float) -> None:
        route = getattr(
            scope.get("route"), "path", scope["path"] if scope["path"] in _QUESTIONS else "other"
        )
        self.state.requests.labels(route, str(status)).inc()
        self.state.times.labels(route).observe(seconds)
        about = {"id": number, "method": scope["method"], "path": route, "status": status}
        log.info(json.dumps({**about, "ms": round(1000 * seconds, 1)}))


def _told(error: Exception, number: str) -> Response:
    match error:
        case Refused():
            return _error(error.status, error.what)
        case BrokenImage() | UsageError():
            return _error(400, error.brief)
        case Busy():
            return _busy()
    log.error(json.dumps({"id": number, "error": "unexpected"}), exc_info=error)
    return _error(500, f"something went wrong here; the log has it under {number}")


def _refused(state: State, scope: Scope) -> Response | None:
    """A refusal before anything is read: no token, nothing new is taken, or no room, which under a flood has to cost little."""
    path: str = scope["path"]
    if state.limits.token and path not in _PAGE and not path.startswith(_OPEN):
        given = Headers(scope=scope).get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), state.limits.token.encode()):
            return _error(
                401,
                "this server wants a token: Authorization: Bearer TOKEN",
                {"www-authenticate": "Bearer"},
            )
    if state.draining and not path.startswith(_OPEN):
        return _error(503, "this server is about to stop", {"retry-after": "5"})
    if path in _QUESTIONS and scope["method"] == "POST":
        batcher = state.batchers.get(
            QueryParams(scope["query_string"]).get("model") or next(iter(state.batchers))
        )
        return _busy() if batcher is not None and batcher.full else None
    return None


def _busy() -> JSONResponse:
    return _error(429, "there is no room for more pictures just now", {"retry-after": "1"})


def _error(status: int, what: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": what}, status, headers)


# --- addresses


def _pages(app: FastAPI, state: State) -> None:
    folder = Path(__file__).parent / "static"

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(
            (folder / "page.html").read_text(encoding="utf-8"),
            headers={"content-security-policy": _POLICY},
        )

    @app.get("/page.js", include_in_schema=False)
    @app.get("/painting.js", include_in_schema=False)
    @app.get("/page.css", include_in_schema=False)
    async def part(request: Request) -> Response:
        text = (folder / request.url.path.removeprefix("/")).read_text(encoding="utf-8")
        return Response(text, media_type=_KINDS[request.url.path.rpartition(".")[2]])

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(state.registry), media_type="text/plain; version=0.0.4")


def _predict(app: FastAPI, state: State) -> None:
    @app.post("/predict")
    async def predict(request: Request, model: str = "") -> Response:
        """A picture as the body, or as the one file of a form. `model`: where there are several."""
        return await _about_one(state, request, model, Batcher.ask)

    @app.post("/explain")
    async def explain(request: Request, model: str = "") -> Response:
        """A picture as for /predict; answers where that answer comes from, as a map of numbers."""
        return await _about_one(
            state,
            request,
            model,
            lambda batcher, content: batcher.alone(batcher.engine.explain, content),
        )


async def _about_one(
    state: State, request: Request, model: str, ask: Callable[[Batcher, bytes], Awaitable[Any]]
) -> Response:
    """What a model says to a request with one picture; the first model where none is named."""
    batcher = _batcher(state, model or next(iter(state.batchers)))
    async with batcher.place():
        body = await body_of(request, state.limits.bytes, state.limits.seconds)
        content = await picture_in(request, body)
        found = await _unless_gone(request, [ask(batcher, content)])
    return (
        JSONResponse({"model": batcher.engine.name, **found[0]})
        if found
        else Response(status_code=_GONE)
    )


def _protocol(app: FastAPI, state: State) -> None:
    @app.get("/v2")
    async def server() -> dict[str, Any]:
        return {
            "name": "foveate",
            "version": __version__,
            "extensions": ["binary_tensor_data"],
            "models": list(state.batchers),
        }

    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready")
    @app.get("/v2/models/{name}/ready")
    async def ready(name: str = "") -> Response:
        if name:
            _batcher(state, name)
        return JSONResponse({"ready": not state.draining}, 503 if state.draining else 200)

    @app.get("/v2/models/{name}")
    async def about(name: str) -> dict[str, Any]:
        return v2.metadata(_batcher(state, name).engine)

    @app.post("/v2/models/{name}/infer")
    async def infer(request: Request, name: str) -> Response:
        batcher, header = _batcher(state, name), request.headers.get(v2.HEADER)
        async with batcher.place():
            body = await body_of(request, state.limits.bytes, state.limits.seconds)
            told, pictures = v2.asked(body, header, state.limits.batch)
            async with batcher.place(len(pictures) - 1):
                rows = await _unless_gone(request, [batcher.ask(content) for content in pictures])
        if not rows:
            return Response(status_code=_GONE)
        content, length = v2.answered(told, batcher.engine, rows, binary=header is not None)
        kind = "application/octet-stream" if length else "application/json"
        return Response(content, headers={v2.HEADER: length} if length else None, media_type=kind)


def _batcher(state: State, name: str) -> Batcher:
    if name not in state.batchers:
        raise Refused(404, f"there is no model of this name; there are {', '.join(state.batchers)}")
    return state.batchers[name]


async def _unless_gone(request: Request, questions: list[Any]) -> list[dict[str, Any]]:
    """The answers; none where the client goes away meanwhile: then nobody computes them any more."""
    asking: asyncio.Future[Any] = asyncio.gather(*questions)
    # the body is read: what comes now is the end of the connection
    leaving: asyncio.Future[Any] = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({asking, leaving}, return_when=asyncio.FIRST_COMPLETED)
        found: list[dict[str, Any]] = await asking if asking.done() else []
        return found
    finally:
        leaving.cancel()
        asking.cancel()
        await asyncio.gather(asking, leaving, return_exceptions=True)
