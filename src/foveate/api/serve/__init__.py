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
    max_bodies_mb: float = 400.0,
    max_decoded_mb: float = 700.0,
    request_timeout: float = 20.0,
    grace: float = 30.0,
    allowed_host: str | Iterable[str] = (),
    no_token: bool = False,
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
        max_bodies_mb: Maximum of all request bodies that are held together, MB.
        max_decoded_mb: Memory that decoding one image may take, MB; larger images are refused.
        request_timeout: Timeout for receiving a request body, seconds.
        grace: Time to finish requests after a stop signal, seconds.
        allowed_host: Another name of the server that requests may use, besides its address and
            localhost; "*" for any.
        no_token: Let everybody who reaches the address use the server.
        device: Compute device: auto, cpu, cuda, cuda:1 or mps.

    Raises:
        UsageError: The port is in use, something cannot be served, or other machines would reach
            the server without a token.
        MissingExtra: The extra 'serve' is not installed.
    """
    from foveate.api.serve.core import refuse_exposed, run_server, server_limits

    limits = server_limits(
        max_batch=max_batch,
        batch_wait=batch_wait_ms / 1000,
        max_queue=max_queue,
        max_body_bytes=int(max_body_mb * 1_000_000),
        max_bodies_bytes=int(max_bodies_mb * 1_000_000),
        max_decoded_bytes=int(max_decoded_mb * 1_000_000),
        body_timeout=request_timeout,
        hosts=(host, *((allowed_host,) if isinstance(allowed_host, str) else allowed_host)),
    )
    refuse_exposed(host, limits, no_token)
    run_server(as_paths(runs), host, port, limits, grace, device)
