"""The server: its routes, and what is done around every request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import generate_latest
from starlette.exceptions import HTTPException

from foveate.serving import kserve
from foveate.serving.batching import Batcher, WorkerPools
from foveate.serving.engines import Engine
from foveate.serving.middleware import (
    CLIENT_CLOSED_REQUEST,
    RequestMiddleware,
    error_response,
    has_token,
)
from foveate.serving.openapi import ERRORS, IMAGE_BODY, TENSOR_BODY
from foveate.serving.requests import extract_image
from foveate.serving.state import Limits, ServerState
from foveate.version import __version__

_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; media-src blob:"
)
_MEDIA_TYPES = {"js": "text/javascript", "css": "text/css"}


def create_app(engines: dict[str, Engine], limits: Limits) -> FastAPI:
    """Create the server.

    Args:
        engines: The models by name, the default first.
        limits: The limits.

    Returns:
        The application; `app.state.foveate` is its ServerState.
    """
    pools = WorkerPools(limits.max_decoded_bytes)
    batchers = {
        name: Batcher(engine, limits.max_batch, limits.batch_wait, limits.max_queue, pools)
        for name, engine in engines.items()
    }
    state = ServerState(batchers, pools, limits)

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


# --- errors


async def _http_error(_: Request, error: Exception) -> Response:
    """A path or a method that does not exist, in the shape of all other errors."""
    assert isinstance(error, HTTPException)
    texts = {404: "there is nothing at this path", 405: "this path does not support the method"}
    headers = dict(error.headers or {})
    return error_response(error.status_code, texts.get(error.status_code, error.detail), headers)


async def _invalid_request(_: Request, error: Exception) -> Response:
    """A parameter of a path or query that cannot be read."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return error_response(422, f"{first['loc'][-1]}: {first['msg']}")


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
    async def metrics(request: Request) -> Response:
        """Metrics for Prometheus; those of single models with the token only, if there is one."""
        text = generate_latest(state.registry)
        if has_token(state, request.headers):
            text += generate_latest(state.model_registry)
        return Response(text, media_type="text/plain; version=0.0.4")


def _add_image_routes(app: FastAPI, state: ServerState) -> None:
    @app.post("/predict", responses=ERRORS, openapi_extra=IMAGE_BODY)
    async def predict(request: Request, model: str = "") -> Response:
        """Predict for an image: the request body, or the only file of a form.

        `model` names the model; the first one by default.
        """
        return await _respond_to_image(state, request, model, Batcher.predict)

    @app.post("/explain", responses=ERRORS, openapi_extra=IMAGE_BODY)
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
    async with state.bodies.read(request) as body:
        content = await extract_image(request, body.take())
        async with batcher.reserve():
            results = await _unless_disconnected(request, [process(batcher, content)])
    if not results:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
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

    @app.post("/v2/models/{name}/infer", responses=ERRORS, openapi_extra=TENSOR_BODY)
    async def infer(request: Request, name: str) -> Response:
        """Predict for several images."""
        batcher, header = state.batcher(name), request.headers.get(kserve.HEADER)
        async with state.bodies.read(request) as body:
            content, images = await state.pools.parse(
                partial(kserve.parse_request, header=header, max_images=state.limits.max_batch),
                body.take(),
            )
            async with batcher.reserve(len(images)):
                rows = await _unless_disconnected(request, [batcher.predict(i) for i in images])
        if not rows:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
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
