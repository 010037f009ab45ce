"""serve RUNS: predictions over HTTP, and a web page."""

from collections.abc import Iterable

from foveate.utils.invocation import entry_point
from foveate.utils.paths import PathLike, as_paths


@entry_point
def serve(
    runs: PathLike | Iterable[PathLike],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_batch: int = 32,
    batch_wait_ms: float = 30.0,
    max_queue: int = 64,
    max_body_mb: float = 20.0,
    request_timeout: float = 20.0,
    grace: float = 30.0,
    device: str = "auto",
) -> None:
    """Serve predictions over HTTP (Open Inference Protocol, POST /predict), with a web page.

    Args:
        runs: Run folders, and files that `foveate export` wrote.
        host: Address to listen on; 127.0.0.1 is reachable from this machine only.
        port: Port to listen on; 0 = any free port.
        max_batch: Maximum images per batch.
        batch_wait_ms: Longest time an image waits for others to share its batch, ms.
        max_queue: Images in flight; further requests get HTTP 429.
        max_body_mb: Maximum request body, MB.
        request_timeout: Timeout for receiving a request body, seconds.
        grace: Time to finish requests after a stop signal, seconds.
        device: Compute device: auto, cpu, cuda, cuda:1 or mps.

    Raises:
        UsageError: The port is in use, or something cannot be served.
        MissingExtra: The extra 'serve' is not installed.
    """
    from foveate.api.serve.core import run_server, server_limits

    limits = server_limits(max_batch, batch_wait_ms, max_queue, max_body_mb, request_timeout)
    run_server(as_paths(runs), host, port, limits, grace, device)
