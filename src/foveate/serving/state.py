"""Limits and state of a server."""

from __future__ import annotations

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from foveate.serving.batching import Batcher, WorkerPools
from foveate.serving.requests import Bodies, RequestError


@dataclass(frozen=True)
class Limits:
    """Limits of the server.

    Attributes:
        max_batch: Greatest number of images in a batch.
        batch_wait: Seconds for which the first image of a batch waits for others.
        max_queue: Greatest number of images in flight, of each model.
        max_body_bytes: Greatest size of a request body.
        max_bodies_bytes: Greatest size of all bodies that are held.
        body_timeout: Seconds in which a body has to arrive.
        max_decoded_bytes: Memory that decoding one image may take.
        hosts: Names of the server besides its address and localhost; "*" for any name.
        token: Token that requests must send; empty for none.
    """

    max_batch: int = 32
    batch_wait: float = 0.03
    max_queue: int = 64
    max_body_bytes: int = 20_000_000
    max_bodies_bytes: int = 400_000_000
    body_timeout: float = 20.0
    max_decoded_bytes: int = 700_000_000
    hosts: tuple[str, ...] = ()
    token: str = ""


@dataclass
class ServerState:
    """The state of a running server.

    Attributes:
        batchers: Of each model, by its name.
        limits: The limits.
        draining: Whether new requests are refused because the server is about to stop.
        running: Number of requests that are being processed.
        registry: The metrics for Prometheus, without names of models.
        model_registry: Those with names of models.
        bodies: The bodies of requests.
    """

    batchers: dict[str, Batcher]
    pools: WorkerPools
    limits: Limits
    draining: bool = False
    running: int = 0
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    model_registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        limits = self.limits
        self.bodies = Bodies(limits.max_body_bytes, limits.max_bodies_bytes, limits.body_timeout)
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
        self._add_gauges()

    def _add_gauges(self) -> None:
        Gauge(
            "foveate_body_bytes", "Bytes of request bodies that are held.", registry=self.registry
        ).set_function(lambda: self.bodies.held)
        in_flight = Gauge(
            "foveate_images_in_flight",
            "Images that are being decoded, waiting or being predicted.",
            ["model"],
            registry=self.model_registry,
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
