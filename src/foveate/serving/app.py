"""The server: its routes, and what is done around every request."""

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
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers, QueryParams
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foveate.errors import BrokenImage, UsageError
from foveate.serving import kserve
from foveate.serving.batching import Batcher, QueueFull, WorkerPools
from foveate.serving.engines import Engine
from foveate.serving.requests import RequestError, extract_image, read_body
from foveate.version import __version__

_WITHOUT_TOKEN = ("/v2/health/", "/metrics")  # beginnings of paths
_PAGE = ("/", "/page.js", "/drawing.js", "/page.css")
_IMAGE_ROUTES = ("/predict", "/explain")
_HEADERS = ((b"x-content-type-options", b"nosniff"),)  # of every response
_CLIENT_CLOSED_REQUEST = 499  # as nginx logs it
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; media-src blob:"
)
_MEDIA_TYPES = {"js": "text/javascript", "css": "text/css"}
log = logging.getLogger("foveate.serve")


@dataclass(frozen=True)
class Limits:
    """Limits of the server.

    Attributes:
        max_batch: Greatest number of images in a batch.
        batch_wait: Seconds for which the first image of a batch waits for others.
        max_queue: Greatest number of images in flight, of each model.
        max_body_bytes: Greatest size of a request body.
        body_timeout: Seconds in which a body has to arrive.
        token: Token that requests must send; empty for none.
    """

    max_batch: int = 32
    batch_wait: float = 0.03
    max_queue: int = 64
    max_body_bytes: int = 20_000_000
    body_timeout: float = 20.0
    token: str = ""


@dataclass
class ServerState:
    """The state of a running server.

    Attributes:
        batchers: Of each model, by its name.
        limits: The limits.
        draining: Whether new requests are refused because the server is about to stop.
        running: Number of requests that are being processed.
        registry: The metrics for Prometheus.
    """

    batchers: dict[str, Batcher]
    limits: Limits
    draining: bool = False
    running: int = 0
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.requests = Counter(
            "foveate_requests",
            "Responses by path and status.",
            ["path", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "foveate_request_seconds",
            "Seconds from a request to its response.",
            ["path"],
            registry=self.registry,
        )
        in_flight = Gauge(
            "foveate_images_in_flight",
            "Images that are being read, waiting or being predicted.",
            ["model"],
            registry=self.registry,
        )
        for name, batcher in self.batchers.items():
            in_flight.labels(name).set_function(lambda batcher=batcher: batcher.in_flight)  # type: ignore[misc]

    @property
    def first_model(self) -> str:
        """The model of requests that name none."""
        return next(iter(self.batchers))

    def batcher(self, name: str) -> Batcher:
        """Return the batcher of a model.

        Raises:
            RequestError: There is no such model (404).
        """
        if name not in self.batchers:
            raise RequestError(
                404, f"there is no model of this name; models: {', '.join(self.batchers)}"
            )
        return self.batchers[name]


def create_app(engines: dict[str, Engine], limits: Limits) -> FastAPI:
    """Create the server.

    Args:
        engines: The models by name, the default first.
        limits: The limits.

    Returns:
        The application; `app.state.foveate` is its ServerState.
    """
    pools = WorkerPools()
    batchers = {
        name: Batcher(engine, limits.max_batch, limits.batch_wait, limits.max_queue, pools)
        for name, engine in engines.items()
    }
    state = ServerState(batchers, limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.callback(pools.stop)
            for batcher in batchers.values():
                batcher.start()
                stack.push_async_callback(batcher.stop)
            yield

    app = FastAPI(
        title="Foveate",
        description="Predictions of vision models for images.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.foveate = state
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_middleware(RequestMiddleware, state=state)
    _add_page(app)
    _add_metrics(app, state)
    _add_image_routes(app, state)
    _add_protocol(app, state)
    return app


# --- around every request


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
        except Exception as error:
            if status:  # the response has begun
                raise
            await _error_response(error, request_id)(scope, receive, respond)
        finally:
            self.state.running -= 1
        self._record(scope, request_id, status, time.perf_counter() - start)

    def _record(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        # names of unknown paths do not become labels: anybody could make millions of them
        path = scope["path"] if scope["path"] in _IMAGE_ROUTES else "other"
        route = getattr(scope.get("route"), "path", path)
        self.state.requests.labels(route, str(status)).inc()
        self.state.request_seconds.labels(route).observe(seconds)
        entry = {"id": request_id, "method": scope["method"], "path": route, "status": status}
        log.info(json.dumps({**entry, "ms": round(1000 * seconds, 1)}))


def _error_response(error: Exception, request_id: str) -> Response:
    match error:
        case RequestError():
            return _error(error.status, error.message)
        case BrokenImage() | UsageError():
            return _error(400, error.brief)
        case QueueFull():
            return _queue_full()
    log.error(json.dumps({"id": request_id, "error": "unexpected"}), exc_info=error)
    return _error(
        500, f"an unexpected error occurred; the log of the server has it as {request_id}"
    )


def _refuse_early(state: ServerState, scope: Scope) -> Response | None:
    """Refuse a request before anything of it is read, which is cheap even in a flood."""
    path: str = scope["path"]
    is_open = path.startswith(_WITHOUT_TOKEN)
    if state.limits.token and not is_open and path not in _PAGE:
        sent = Headers(scope=scope).get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(sent.encode(), state.limits.token.encode()):
            return _error(
                401,
                "missing or wrong token; send 'Authorization: Bearer TOKEN'",
                {"www-authenticate": "Bearer"},
            )
    if state.draining and not is_open:
        return _error(503, "the server is shutting down", {"retry-after": "5"})
    if path in _IMAGE_ROUTES and scope["method"] == "POST":
        name = QueryParams(scope["query_string"]).get("model") or state.first_model
        batcher = state.batchers.get(name)
        return _queue_full() if batcher is not None and batcher.is_full else None
    return None


def _queue_full() -> JSONResponse:
    return _error(429, "too many images in flight; try again later", {"retry-after": "1"})


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers)


async def _http_error(_: Request, error: Exception) -> Response:
    """A path or a method that does not exist, in the shape of all other errors."""
    assert isinstance(error, HTTPException)
    texts = {404: "there is nothing at this path", 405: "this path does not support the method"}
    headers = dict(error.headers or {})
    return _error(error.status_code, texts.get(error.status_code, error.detail), headers)


async def _invalid_request(_: Request, error: Exception) -> Response:
    """A parameter of a path or query that cannot be read."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return _error(422, f"{first['loc'][-1]}: {first['msg']}")


# --- routes


def _add_page(app: FastAPI) -> None:
    folder = Path(__file__).parent / "static"

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(
            (folder / "page.html").read_text(encoding="utf-8"),
            headers={"content-security-policy": _CONTENT_SECURITY_POLICY},
        )

    @app.get("/page.js", include_in_schema=False)
    @app.get("/drawing.js", include_in_schema=False)
    @app.get("/page.css", include_in_schema=False)
    async def asset(request: Request) -> Response:
        name = request.url.path.removeprefix("/")
        text = (folder / name).read_text(encoding="utf-8")
        return Response(text, media_type=_MEDIA_TYPES[name.rpartition(".")[2]])


def _add_metrics(app: FastAPI, state: ServerState) -> None:
    @app.get("/metrics")
    async def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(generate_latest(state.registry), media_type="text/plain; version=0.0.4")


def _add_image_routes(app: FastAPI, state: ServerState) -> None:
    @app.post("/predict")
    async def predict(request: Request, model: str = "") -> Response:
        """Predict for an image: the request body, or the only file of a form.

        `model` names the model; the first one by default.
        """
        return await _respond_to_image(state, request, model, Batcher.predict)

    @app.post("/explain")
    async def explain(request: Request, model: str = "") -> Response:
        """Return the evidence for the prediction of an image, as a map of numbers.

        The image and `model` are sent as for `/predict`.
        """
        return await _respond_to_image(
            state,
            request,
            model,
            lambda batcher, content: batcher.run_exclusively(batcher.engine.explain, content),
        )


async def _respond_to_image(
    state: ServerState,
    request: Request,
    model: str,
    process: Callable[[Batcher, bytes], Awaitable[Any]],
) -> Response:
    """Respond with what `process` returns for the image in a request."""
    batcher = state.batcher(model or state.first_model)
    async with batcher.reserve():
        body = await read_body(request, state.limits.max_body_bytes, state.limits.body_timeout)
        content = await extract_image(request, body)
        results = await _unless_disconnected(request, [process(batcher, content)])
    if not results:
        return Response(status_code=_CLIENT_CLOSED_REQUEST)
    return JSONResponse({"model": batcher.engine.name, **results[0]})


def _add_protocol(app: FastAPI, state: ServerState) -> None:
    @app.get("/v2")
    async def server() -> dict[str, Any]:
        """Metadata of the server."""
        return {
            "name": "foveate",
            "version": __version__,
            "extensions": ["binary_tensor_data"],
            "models": list(state.batchers),
        }

    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """Whether the server is running."""
        return {"live": True}

    @app.get("/v2/health/ready")
    @app.get("/v2/models/{name}/ready")
    async def ready(name: str = "") -> Response:
        """Whether the server, or a model, accepts requests."""
        if name:
            state.batcher(name)
        return JSONResponse({"ready": not state.draining}, 503 if state.draining else 200)

    @app.get("/v2/models/{name}")
    async def metadata(name: str) -> dict[str, Any]:
        """Metadata of a model: inputs, outputs, classes."""
        return kserve.metadata(state.batcher(name).engine)

    @app.post("/v2/models/{name}/infer")
    async def infer(request: Request, name: str) -> Response:
        """Predict for several images."""
        batcher, header = state.batcher(name), request.headers.get(kserve.HEADER)
        limits = state.limits
        async with batcher.reserve():
            body = await read_body(request, limits.max_body_bytes, limits.body_timeout)
            content, images = kserve.parse_request(body, header, limits.max_batch)
            async with batcher.reserve(len(images) - 1):
                rows = await _unless_disconnected(request, [batcher.predict(i) for i in images])
        if not rows:
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
        response, length = kserve.build_response(
            content, batcher.engine, rows, binary=header is not None
        )
        media_type = "application/octet-stream" if length else "application/json"
        headers = {kserve.HEADER: length} if length else None
        return Response(response, headers=headers, media_type=media_type)


async def _unless_disconnected(
    request: Request, tasks: list[Awaitable[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Return the results of the tasks; they are canceled if the client disconnects.

    Args:
        request: The request, whose body has been read.
        tasks: The tasks.

    Returns:
        The results; none if the client disconnected.
    """
    working: asyncio.Future[Any] = asyncio.gather(*tasks)
    # the body has been read: the next message is the end of the connection
    disconnected: asyncio.Future[Any] = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({working, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        results: list[dict[str, Any]] = await working if working.done() else []
        return results
    finally:
        disconnected.cancel()
        working.cancel()
        await asyncio.gather(working, disconnected, return_exceptions=True)
