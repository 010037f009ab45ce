"""The life of the server: limits, socket, log and signals."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.errors import UsageError, require_packages
from foveate.images.limits import limit_decoding
from foveate.utils import log

if TYPE_CHECKING:
    from foveate.serving.engines import Engine
    from foveate.serving.state import Limits, ServerState

TOKEN = "FOVEATE_TOKEN"  # environment variable with the token that requests must send
_PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")
_BACKLOG = 2048  # connections that wait to be accepted
# of them, that are accepted at once: what earlier ones sent is read in between
_ACCEPTED_AT_ONCE = 64
_POLL = 0.05  # seconds


def server_limits(**limits: Any) -> Limits:
    """Return the limits of the server; the token comes from the environment.

    Args:
        **limits: Those of `Limits`.

    Raises:
        MissingExtra: The extra 'serve' is not installed.
    """
    require_packages("serve", *_PACKAGES)
    from foveate.serving.state import Limits

    return Limits(token=os.environ.get(TOKEN, ""), **limits)


def refuse_exposed(host: str, limits: Limits, no_token: bool) -> None:
    """Raise UsageError if other machines would reach the server and need no token."""
    if limits.token or no_token or host == "localhost":
        return
    try:
        is_local = ip_address(host).is_loopback
    except ValueError:  # a name
        is_local = False
    if not is_local:
        raise UsageError(
            f"at {host}, others could use the server without a token",
            where="--host",
            hint=f"set the environment variable {TOKEN}, or --no-token if everybody may use it",
        )


def run_server(
    paths: Sequence[Path], host: str, port: int, limits: Limits, grace: float, device: str
) -> None:
    """Serve until a signal; after it, no new requests are accepted, and running ones are finished.

    Args:
        paths: Run folders and exported files.
        host: Address to listen on.
        port: Port to listen on; 0 = any free port.
        limits: Limits of requests and batches.
        grace: Seconds to finish after the signal.
        device: Device to compute on.

    Raises:
        UsageError: The port is in use, or something cannot be served.
    """
    from foveate.serving.engines import load_engines

    serve_engines(load_engines(paths, device), host, port, limits, grace)


def serve_engines(
    engines: dict[str, Engine], host: str, port: int, limits: Limits, grace: float
) -> None:
    """Serve loaded models; the other arguments are those of `run_server`."""
    import uvicorn

    from foveate.serving.app import create_app
    from foveate.serving.protocol import KEEP_ALIVE_SECONDS, BoundedProtocol

    limit_decoding(limits.max_decoded_bytes)
    app = create_app(engines, limits)
    listener = _listen(host, port)
    _log_requests()
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        backlog=_ACCEPTED_AT_ONCE,
        log_level="error",  # what is wrong with a request is no fault of the server
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    log.info(f"serving on http://{host}:{listener.getsockname()[1]}")
    state = app.state.foveate
    asyncio.run(_serve(uvicorn.Server(config), listener, state, grace))
    if state.pools.running:
        # a thread that decodes or predicts cannot be ended, and Python would wait for it
        log.warning("the time to finish is over: what is still being computed is dropped")
        logging.shutdown()
        os._exit(0)


def _log_requests() -> None:
    """Write the JSON log of requests to stderr, and nowhere else."""
    requests = logging.getLogger("foveate.serve")
    requests.setLevel(logging.INFO)
    requests.propagate = False
    if not requests.handlers:
        requests.addHandler(logging.StreamHandler())


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # TCP explicitly: asyncio does not send small packets at once through a socket of protocol 0,
    # and responses came 40 ms late
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)  # before the address is reported: early clients wait
    except OSError as error:
        listener.close()
        what, why = f"cannot bind to {host}:{port}", error.strerror or str(error)
        raise UsageError(what, why=why, hint=_bind_hint(error)) from None
    return listener


def _bind_hint(error: OSError) -> str:
    """What to try where an address cannot be listened on."""
    if error.errno == errno.EADDRINUSE:
        return "--port ANOTHER_PORT, or --port 0 for any free port"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "--port 8000: ports below 1024 are for the administrator"
    return "an address of this computer: --host 127.0.0.1, or --host 0.0.0.0 for all of them"


async def _serve(server: Any, listener: socket.socket, state: ServerState, grace: float) -> None:
    loop, signaled = asyncio.get_running_loop(), asyncio.Event()
    # uvicorn must not handle signals: new requests are refused first, the server ends later
    server.install_signal_handlers = lambda: None
    server.capture_signals = contextlib.nullcontext
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signaled.set)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    waiting = asyncio.ensure_future(signaled.wait())
    while not (server.started or serving.done()):
        await asyncio.sleep(0)
    listener.listen(_BACKLOG)  # uvicorn has set it to the other number
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    state.draining = True
    end = loop.time() + grace
    while state.running and loop.time() < end:
        await asyncio.sleep(_POLL)
    server.config.timeout_graceful_shutdown = max(0, end - loop.time())
    server.should_exit = True
    waiting.cancel()
    await serving
