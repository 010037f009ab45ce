"""The server: throughput compared with `predict`, overload, and memory of several runs.

    python bench/serve.py --data DATA --out OUT [--cases speed overload retries memory]
        [--minutes 1] [--threads 2]

A probe of EfficientNet-Lite0 on clothing serves the images of clothing's validation folder.

speed     Predictions per second of `predict` in batches of 32 and of the server with 16 clients
          that send without pause, in turn, medians of five rounds.
overload  For --minutes, ten times as many requests per second as the server answers to those 16
          clients, spread evenly: the responses, the 99th percentile of the latency of accepted
          requests next to that of a single client, and the memory of the server before, in the
          middle and after.
retries   The same with 160 clients that send again at once when they are refused, as fast as they
          can.
memory    Memory of servers of one run and of five runs of one backbone, after a response of each.

Clients and server share the machine; the clients are one thread. Rows are appended to
OUT/serve.jsonl; those already there are not measured again.
"""

from __future__ import annotations

import itertools
import os
import re
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

import foveate
from common import ResultFile, parse_options
from foveate.data.discovery import find_images
from foveate.inference.predictor import load_predictor

CLIENTS, MANY_CLIENTS, ROUNDS, BATCH, MAX_QUEUE = 16, 160, 5, 32, 64
OVERLOAD = 10  # times the capacity
NUM_RUNS = 5  # runs of one backbone


def main() -> None:
    options = parse_options(
        __doc__, [], ["speed", "overload", "retries", "memory"], threads=2, minutes=1.0
    )
    results = ResultFile(options.out / "serve.jsonl")
    torch.set_num_threads(options.threads)
    paths = list(find_images(options.data / "clothing" / "validation"))
    contents = [path.read_bytes() for path in paths]
    for case in options.cases:
        if results.has(case=case):
            continue
        if case == "memory":
            row = {
                "megabytes": {
                    str(count): measure_memory(_runs(options, count), contents[0], options.threads)
                    for count in (1, NUM_RUNS)
                }
            }
        else:
            run = _runs(options, 1)[0]
            server, port = start_server([run], options.threads)
            try:
                row = (
                    measure_speed(run, paths, contents, port)
                    if case == "speed"
                    else measure_overload(case, contents, port, server, options.minutes)
                )
            finally:
                code = stop_server(server)
            row["exit_code"] = code
        results.add({"case": case, "threads": options.threads, **row})


def _runs(options: Any, count: int) -> list[Path]:
    """Return a probe, and copies of it: they share the backbone, and heads are never shared."""
    runs = [options.out / f"serve-clothing-{number}" for number in range(count)]
    if not (runs[0] / "finished.json").is_file():
        foveate.fit(
            options.data / "clothing" / "train", weights="offline", device="cpu", out=runs[0]
        )
    for copy in runs[1:]:
        shutil.copytree(runs[0], copy, dirs_exist_ok=True)
    return runs


def stop_server(server: subprocess.Popen[bytes]) -> int:
    server.send_signal(signal.SIGTERM)
    return server.wait(60)


def start_server(runs: list[Path], threads: int) -> tuple[subprocess.Popen[bytes], int]:
    command = [
        sys.executable,
        "-m",
        "foveate",
        "serve",
        *map(str, runs),
        "--port",
        "0",
        "--max-batch",
        str(BATCH),
        "--max-queue",
        str(MAX_QUEUE),
    ]
    log = Path(tempfile.mkstemp(suffix=".log")[1])
    with log.open("w", encoding="utf-8") as file:
        server = subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": str(threads)}
        )
    while server.poll() is None:
        match = re.search(r"serving on http://127.0.0.1:(\d+)", log.read_text(encoding="utf-8"))
        if match:
            return server, int(match.group(1))
        time.sleep(0.2)
    sys.exit(log.read_text(encoding="utf-8"))


@dataclass
class Client:
    """A kept-alive connection, and the response that it waits for."""

    connection: socket.socket
    start: float = 0.0
    received: bytes = b""

    @classmethod
    def connect(cls, port: int) -> Client:
        return cls(socket.create_connection(("127.0.0.1", port), timeout=60))

    def send(self, content: bytes, address: str = "/predict") -> None:
        self.start, self.received = time.perf_counter(), b""
        self.connection.sendall(
            f"POST {address} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(content)}\r\n\r\n".encode()
            + content
        )

    def receive(self) -> int | None:
        """Receive what is there; return the status of a complete response, 0 if disconnected."""
        part = self.connection.recv(1 << 16)
        self.received += part
        head, end, body = self.received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if end and length and len(body) >= int(length.group(1)):
            return int(head[9:12])
        return None if part else 0


def run_clients(
    port: int, contents: Sequence[bytes], clients: int, *, seconds: float = 0.0, rate: float = 0.0
) -> list[tuple[int, float]]:
    """Return status and seconds of each response.

    Clients send again as soon as they have a response: each image once, or for `seconds`; with a
    `rate` no more than this many requests per second, all clients together.
    """
    selector, responses = selectors.DefaultSelector(), list[tuple[int, float]]()
    begin = time.perf_counter()
    queue = iter(contents) if not seconds else itertools.cycle(contents)
    idle, sent, more = [Client.connect(port) for _ in range(clients)], 0, True
    for client in idle:
        selector.register(client.connection, selectors.EVENT_READ, client)
    while more or len(idle) < clients:
        now = time.perf_counter()
        more = more and (not seconds or now < begin + seconds)
        while more and idle and (not rate or sent < rate * (now - begin)):
            content = next(queue, None)
            if content is None:
                more = False
            else:
                idle.pop(0).send(content)
                sent += 1
        for key, _ in selector.select(0.001 if rate else 0.1):
            client = key.data
            status = client.receive()
            if status is not None:
                responses.append((status, time.perf_counter() - client.start))
                if not status:
                    selector.unregister(client.connection)
                    client = Client.connect(port)
                    selector.register(client.connection, selectors.EVENT_READ, client)
                idle.append(client)
    for key in list(selector.get_map().values()):
        key.data.connection.close()
    return responses


def measure_speed(run: Path, paths: list[Path], contents: list[bytes], port: int) -> dict[str, Any]:
    """Alternate `predict` and the server; return images per second."""
    predictor, direct, served = load_predictor(run, "cpu"), list[float](), list[float]()
    for round_ in range(ROUNDS + 1):
        start = time.perf_counter()
        list(predictor.predict(paths, batch_size=BATCH))
        middle = time.perf_counter()
        assert {status for status, _ in run_clients(port, contents, CLIENTS)} == {200}
        end = time.perf_counter()
        if round_:  # the first one warms up
            direct.append(len(paths) / (middle - start))
            served.append(len(paths) / (end - middle))
    ratios = [server / predict for server, predict in zip(served, direct, strict=True)]
    medians = {
        "predict_per_second": statistics.median(direct),
        "server_per_second": statistics.median(served),
        "ratio": statistics.median(ratios),
    }
    return {**medians, "ratios": ratios, "clients": CLIENTS}


def measure_overload(
    case: str, contents: list[bytes], port: int, server: subprocess.Popen[bytes], minutes: float
) -> dict[str, Any]:
    """Send more requests than the server can answer."""
    alone = [seconds for _, seconds in run_clients(port, contents[:200], 1)]
    start = time.perf_counter()
    capacity = len(run_clients(port, contents, CLIENTS)) / (time.perf_counter() - start)
    memory = [_megabytes(server)]
    middle = threading.Timer(30 * minutes, lambda: memory.append(_megabytes(server)))
    middle.start()
    responses = run_clients(
        port,
        contents,
        MANY_CLIENTS,
        seconds=60 * minutes,
        rate=OVERLOAD * capacity if case == "overload" else 0.0,
    )
    middle.join()
    memory.append(_megabytes(server))
    accepted, refused = (
        [seconds for status, seconds in responses if status == wanted] for wanted in (200, 429)
    )
    per_second = len(accepted) / (60 * minutes)
    latencies = {
        "single_client_p99": float(np.quantile(alone, 0.99)),
        "accepted_p99": float(np.quantile(accepted, 0.99)),
    }
    statuses = {
        str(status): count
        for status, count in sorted(Counter(status for status, _ in responses).items())
    }
    rates = {
        "capacity": capacity,
        "requests_per_second": len(responses) / (60 * minutes),
        "statuses": statuses,
        "predictions_per_second": per_second,
    }
    latencies |= {
        "accepted_median": statistics.median(accepted),
        "refused_p99": float(np.quantile(refused, 0.99)),
    }
    return {**rates, **latencies, "full_queue_seconds": MAX_QUEUE / per_second, "megabytes": memory}


def measure_memory(runs: list[Path], content: bytes, threads: int) -> float:
    """Return the megabytes of a server of these runs, after a prediction by each."""
    server, port = start_server(runs, threads)
    try:
        for run in runs:
            client = Client.connect(port)
            client.send(content, f"/predict?model={run.name}")
            while (status := client.receive()) is None:
                pass
            assert status == 200
        return _megabytes(server)
    finally:
        stop_server(server)


def _megabytes(server: subprocess.Popen[bytes]) -> float:
    return float(psutil.Process(server.pid).memory_info().rss / 1e6)


if __name__ == "__main__":
    main()
