"""serve RUN: the same answers over HTTP, and a page to drop a picture on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.errors import UsageError, need
from foveate.utils import log

if TYPE_CHECKING:
    from foveate.serving.app import Limits, State

TOKEN = "FOVEATE_TOKEN"  # of the environment: what requests have to bring
_PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")
_BACKLOG = 2048  # connections that wait to be taken
_LOOK = 0.05  # seconds between looks at what is still running


def server_limits(
    max_batch: int,
    batch_wait_ms: float,
    max_queue: int,
    max_body_mb: float,
    request_timeout: float,
) -> Limits:
    """Return the limits of the server; the token comes from the environment.

    Raises:
        MissingExtra: The extra 'serve' is not installed.
    """
    need("serve", *_PACKAGES)
    from foveate.serving.app import Limits

    return Limits(
        batch=max_batch,
        wait=batch_wait_ms / 1000,
        room=max_queue,
        bytes=int(max_body_mb * 1_000_000),
        seconds=request_timeout,
        token=os.environ.get(TOKEN, ""),
    )


def run_server(
    places: Sequence[Path], host: str, port: int, limits: Limits, grace: float, device: str
) -> None:
    """Serve until a signal; after it, no new requests are accepted, and running ones are answered.

    Args:
        places: Run folders and exported files.
        host: Address to listen on.
        port: Port to listen on; 0 = any free port.
        limits: Limits of requests and batches.
        grace: Seconds to finish after the signal.
        device: Device to compute on.

    Raises:
        UsageError: The port is in use, or something cannot be served.
    """
    import uvicorn

    from foveate.serving.app import app_of
    from foveate.serving.engines import engines

    app = app_of(engines(places, device), limits)
    door = _door(host, port)
    logging.getLogger("foveate.serve").setLevel(logging.INFO)
    if not logging.getLogger("foveate.serve").handlers:
        logging.getLogger("foveate.serve").addHandler(logging.StreamHandler())
    config = uvicorn.Config(
        app,
        backlog=_BACKLOG,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=int(grace),
    )
    log.info(f"serving on http://{host}:{door.getsockname()[1]}")
    asyncio.run(_until_told(uvicorn.Server(config), door, app.state.foveate, grace))


def _door(host: str, port: int) -> socket.socket:
    # TCP by name: asyncio does not send small parts at once through a socket of protocol 0, and answers came 40 ms late
    door = socket.socket(
        socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((host, port))
        door.listen(_BACKLOG)  # before it is said that there is a server: who comes early waits
    except OSError as error:
        door.close()
        raise UsageError(
            f"{host}:{port} cannot be taken",
            why=error.strerror or str(error),
            hint="--port ANOTHER",
        ) from None
    return door


async def _until_told(server: Any, door: socket.socket, state: State, grace: float) -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    server.install_signal_handlers = lambda: None
    server.capture_signals = (
        contextlib.nullcontext
    )  # signals are ours: first nothing new, then the end
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, told.set)
    serving = asyncio.ensure_future(server.serve(sockets=[door]))
    waiting = asyncio.ensure_future(told.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    state.draining = True
    end = loop.time() + grace
    while state.running and loop.time() < end:
        await asyncio.sleep(_LOOK)
    server.should_exit = True
    waiting.cancel()
    await serving
