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
from foveate.utils import console

if TYPE_CHECKING:
    from foveate.serving.app import State

TOKEN = "FOVEATE_TOKEN"  # of the environment: what requests have to bring
_PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")
_BACKLOG = 2048  # connections that wait to be taken
_LOOK = 0.05  # seconds between looks at what is still running


def serve(
    places: Sequence[Path],
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "auto",
    grace: float = 30.0,
    **limits: Any,
) -> None:
    """Serves finished runs and exported files until a signal; after it, nothing new is taken, and what runs is answered within
    `grace` seconds. `limits`: as foveate.serving.app.Limits has them.

    Raises UsageError for a port that is taken and for what cannot be served, MissingExtra without the extra `serve`.
    """
    need("serve", *_PACKAGES)
    import uvicorn

    from foveate.serving.app import Limits, app_of
    from foveate.serving.engines import engines

    app = app_of(engines(places, device), Limits(**limits, token=os.environ.get(TOKEN, "")))
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
    console.say(f"serving on http://{host}:{door.getsockname()[1]}")
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
