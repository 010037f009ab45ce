"""The server against the bare predictor, under ten times what it can do, and with several runs of
one backbone.

    python bench/serve.py --data DATA --out OUT [--ways speed flood storm memory] [--seeds 0]
    [--minutes 1] [--threads 2]

A probe of EfficientNet-Lite0 on clothing; asked are the pictures of clothing's validation folder.
speed: answers a second of `predict` in batches of 32 and of the server before 16 clients that ask
without pause, in turns, medians of five. flood: ten times as many requests a second as the server
answers to those 16, spread evenly, for so many minutes: what they get, the slowest hundredth of
what was taken beside that of one client alone, and the server's memory before, in the middle and
after. storm: the same of 160 clients that ask again at once when they are refused, as fast as they
can. memory: of servers of one run and of five of one backbone, after an answer of each. Clients and
server share the machine; the clients are one thread.

Rows land in OUT/serve.jsonl, and a row that is there is not measured again.
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
from foveate.data.discovery import find_images
from foveate.inference.predictor import load_predictor
from spine import Rows, words

CLIENTS, CROWD, TURNS, BATCH, ROOM = 16, 160, 5, 32, 64
TIMES = 10  # the overload
SEVERAL = 5  # runs of one backbone


def main() -> None:
    options = words(__doc__, [], ["speed", "flood", "storm", "memory"], threads=2, minutes=1.0)
    rows = Rows(options.out / "serve.jsonl")
    torch.set_num_threads(options.threads)
    paths = list(find_images(options.data / "clothing" / "validation"))
    contents = [path.read_bytes() for path in paths]
    for way in options.ways:
        if rows.has(way=way):
            continue
        if way == "memory":
            row = {
                "megabytes": {
                    str(count): held(_runs(options, count), contents[0], options.threads)
                    for count in (1, SEVERAL)
                }
            }
        else:
            run = _runs(options, 1)[0]
            server, port = started([run], options.threads)
            try:
                row = (
                    speed(run, paths, contents, port)
                    if way == "speed"
                    else flood(way, contents, port, server, options.minutes)
                )
            finally:
                code = stopped(server)
            row["ended_with"] = code
        rows.add({"way": way, "threads": options.threads, **row})


def _runs(options: Any, count: int) -> list[Path]:
    """A probe, and copies of it under other names: what they have in common is their backbone, and
    heads are not shared.
    """
    runs = [options.out / f"serve-clothing-{number}" for number in range(count)]
    if not (runs[0] / "finished.json").is_file():
        foveate.fit(
            options.data / "clothing" / "train", weights="offline", device="cpu", out=runs[0]
        )
    for copy in runs[1:]:
        shutil.copytree(runs[0], copy, dirs_exist_ok=True)
    return runs


def stopped(server: subprocess.Popen[bytes]) -> int:
    server.send_signal(signal.SIGTERM)
    return server.wait(60)


def started(runs: list[Path], threads: int) -> tuple[subprocess.Popen[bytes], int]:
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
        str(ROOM),
    ]
    log = Path(tempfile.mkstemp(suffix=".log")[1])
    with log.open("w", encoding="utf-8") as file:
        server = subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": str(threads)}
        )
    while server.poll() is None:
        found = re.search(r"serving on http://127.0.0.1:(\d+)", log.read_text(encoding="utf-8"))
        if found:
            return server, int(found.group(1))
        time.sleep(0.2)
    sys.exit(log.read_text(encoding="utf-8"))


@dataclass
class Client:
    """A connection that is kept, and what it waits for."""

    door: socket.socket
    start: float = 0.0
    found: bytes = b""

    @classmethod
    def of(cls, port: int) -> Client:
        return cls(socket.create_connection(("127.0.0.1", port), timeout=60))

    def ask(self, content: bytes, address: str = "/predict") -> None:
        self.start, self.found = time.perf_counter(), b""
        self.door.sendall(
            f"POST {address} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(content)}\r\n\r\n".encode()
            + content
        )

    def answer(self) -> int | None:
        """The status when all of it is there; 0 where the connection is gone."""
        part = self.door.recv(1 << 16)
        self.found += part
        head, end, body = self.found.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if end and length and len(body) >= int(length.group(1)):
            return int(head[9:12])
        return None if part else 0


def crowd(
    port: int, contents: Sequence[bytes], clients: int, *, seconds: float = 0.0, rate: float = 0.0
) -> list[tuple[int, float]]:
    """Status and seconds of each answer to clients that ask again as soon as they are answered,
    each picture once, or for so many `seconds`; or no more often than `rate` times a second, all
    together.
    """
    choose, told, begin = (
        selectors.DefaultSelector(),
        list[tuple[int, float]](),
        time.perf_counter(),
    )
    queue = iter(contents) if not seconds else itertools.cycle(contents)
    idle, asked, more = [Client.of(port) for _ in range(clients)], 0, True
    for client in idle:
        choose.register(client.door, selectors.EVENT_READ, client)
    while more or len(idle) < clients:
        now = time.perf_counter()
        more = more and (not seconds or now < begin + seconds)
        while more and idle and (not rate or asked < rate * (now - begin)):
            content = next(queue, None)
            if content is None:
                more = False
            else:
                idle.pop(0).ask(content)
                asked += 1
        for key, _ in choose.select(0.001 if rate else 0.1):
            client = key.data
            status = client.answer()
            if status is not None:
                told.append((status, time.perf_counter() - client.start))
                if not status:
                    choose.unregister(client.door)
                    client = Client.of(port)
                    choose.register(client.door, selectors.EVENT_READ, client)
                idle.append(client)
    for key in list(choose.get_map().values()):
        key.data.door.close()
    return told


def speed(run: Path, paths: list[Path], contents: list[bytes], port: int) -> dict[str, Any]:
    predictor, bare, served = load_predictor(run, "cpu"), list[float](), list[float]()
    for turn in range(TURNS + 1):
        start = time.perf_counter()
        list(predictor.predict(paths, batch_size=BATCH))
        middle = time.perf_counter()
        assert {status for status, _ in crowd(port, contents, CLIENTS)} == {200}
        end = time.perf_counter()
        if turn:
            bare.append(len(paths) / (middle - start))
            served.append(len(paths) / (end - middle))
    ratios = [one / other for one, other in zip(served, bare, strict=True)]
    medians = {
        "bare": statistics.median(bare),
        "served": statistics.median(served),
        "ratio": statistics.median(ratios),
    }
    return {**medians, "ratios": ratios, "clients": CLIENTS}


def flood(
    way: str, contents: list[bytes], port: int, server: subprocess.Popen[bytes], minutes: float
) -> dict[str, Any]:
    alone = [seconds for _, seconds in crowd(port, contents[:200], 1)]
    start = time.perf_counter()
    can = len(crowd(port, contents, CLIENTS)) / (time.perf_counter() - start)
    memory, middle = (
        [_megabytes(server)],
        threading.Timer(30 * minutes, lambda: memory.append(_megabytes(server))),
    )
    middle.start()
    told = crowd(
        port, contents, CROWD, seconds=60 * minutes, rate=TIMES * can if way == "flood" else 0.0
    )
    middle.join()
    memory.append(_megabytes(server))
    taken, refused = (
        [seconds for status, seconds in told if status == wanted] for wanted in (200, 429)
    )
    per_second = len(taken) / (60 * minutes)
    slow = {
        "alone_p99": float(np.quantile(alone, 0.99)),
        "taken_p99": float(np.quantile(taken, 0.99)),
    }
    statuses = {
        str(status): count
        for status, count in sorted(Counter(status for status, _ in told).items())
    }
    about = {
        "can": can,
        "asked_per_second": len(told) / (60 * minutes),
        "statuses": statuses,
        "per_second": per_second,
    }
    slow |= {
        "taken_median": statistics.median(taken),
        "refused_p99": float(np.quantile(refused, 0.99)),
    }
    return {**about, **slow, "room_seconds": ROOM / per_second, "megabytes": memory}


def held(runs: list[Path], content: bytes, threads: int) -> float:
    """Of a server of these runs, when each has answered."""
    server, port = started(runs, threads)
    try:
        for run in runs:
            client = Client.of(port)
            client.ask(content, f"/predict?model={run.name}")
            while (status := client.answer()) is None:
                pass
            assert status == 200
        return _megabytes(server)
    finally:
        stopped(server)


def _megabytes(server: subprocess.Popen[bytes]) -> float:
    return float(psutil.Process(server.pid).memory_info().rss / 1e6)


if __name__ == "__main__":
    main()
