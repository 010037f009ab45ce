"""The server against the bare predictor, and under ten times what it can do.

    python bench/serve.py --data DATA --out OUT [--ways speed flood] [--seeds 0] [--minutes 1] [--threads 2]

A probe of EfficientNet-Lite0 on clothing; asked are the pictures of clothing's validation folder. speed: answers a second of
`predict` in batches of 32 and of the server before 16 clients that ask without pause, in turns, medians of five. flood: 160 clients
that ask for so many minutes, again at once when they are refused: what they get, the slowest hundredth of what was taken beside
that of one client alone, and the server's memory before, in the middle and after. Clients and server share the machine.

Rows land in OUT/serve.jsonl, and a row that is there is not measured again.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

import foveate
from foveate import images
from foveate.predictor import load
from spine import Rows, words

CLIENTS, CROWD, TURNS, BATCH, ROOM = 16, 160, 5, 32, 64


def main() -> None:
    options = words(__doc__, [], ["speed", "flood"], threads=2, minutes=1.0)
    rows = Rows(options.out / "serve.jsonl")
    torch.set_num_threads(options.threads)
    run = options.out / "serve-clothing"
    if not (run / "finished.json").is_file():
        foveate.fit(options.data / "clothing" / "train", weights="offline", device="cpu", out=run)
    paths = list(images.find_images(options.data / "clothing" / "validation"))
    for way in options.ways:
        if rows.has(way=way):
            continue
        server, port = started(run, options.threads)
        try:
            contents = [path.read_bytes() for path in paths]
            row = speed(run, paths, contents, port) if way == "speed" else flood(contents, port, server, options.minutes)
        finally:
            server.send_signal(signal.SIGTERM)
            code = server.wait(60)
        rows.add({"way": way, "threads": options.threads, **row, "ended_with": code})


def started(run: Path, threads: int) -> tuple[subprocess.Popen[bytes], int]:
    command = [sys.executable, "-m", "foveate", "serve", str(run), "--port", "0", "--batch", str(BATCH), "--room", str(ROOM)]
    log = Path(tempfile.mkstemp(suffix=".log")[1])
    with log.open("w", encoding="utf-8") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    while server.poll() is None:
        found = re.search(r"serving on http://127.0.0.1:(\d+)", log.read_text(encoding="utf-8"))
        if found:
            return server, int(found.group(1))
        time.sleep(0.2)
    sys.exit(log.read_text(encoding="utf-8"))


class Client:
    """Keeps its connection."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, content: bytes) -> tuple[int, float]:
        """Status and seconds."""
        start = time.perf_counter()
        self.connection.request("POST", "/predict", content)
        answer = self.connection.getresponse()
        answer.read()
        return answer.status, time.perf_counter() - start


def speed(run: Path, paths: list[Path], contents: list[bytes], port: int) -> dict[str, Any]:
    predictor, own = load(run, "cpu"), threading.local()

    def ask(content: bytes) -> int:
        own.client = getattr(own, "client", None) or Client(port)
        return int(own.client.ask(content)[0])

    bare, served = list[float](), list[float]()
    with ThreadPoolExecutor(CLIENTS) as crowd:
        for turn in range(TURNS + 1):
            start = time.perf_counter()
            list(predictor.predict(paths, batch_size=BATCH))
            middle = time.perf_counter()
            assert set(crowd.map(ask, contents)) == {200}
            end = time.perf_counter()
            if turn:
                bare.append(len(paths) / (middle - start))
                served.append(len(paths) / (end - middle))
    ratios = [one / other for one, other in zip(served, bare, strict=True)]
    medians = {"bare": statistics.median(bare), "served": statistics.median(served), "ratio": statistics.median(ratios)}
    return {**medians, "ratios": ratios, "clients": CLIENTS}


def flood(contents: list[bytes], port: int, server: subprocess.Popen[bytes], minutes: float) -> dict[str, Any]:
    alone = [Client(port).ask(content)[1] for content in contents[:100]]
    memory, statuses, taken = [_megabytes(server)], Counter[int](), list[float]()
    end, lock = time.monotonic() + 60 * minutes, threading.Lock()

    def ask(place: int) -> None:
        client, number = Client(port), place
        while time.monotonic() < end:
            try:
                status, seconds = client.ask(contents[number % len(contents)])
            except (OSError, http.client.HTTPException):
                status, seconds, client = 0, 0.0, Client(port)
            with lock:
                statuses[status] += 1
                taken.extend([seconds] if status == 200 else [])
            number += 1

    crowd = [threading.Thread(target=ask, args=(place,)) for place in range(CROWD)]
    for each in crowd:
        each.start()
    time.sleep(30 * minutes)
    memory.append(_megabytes(server))
    for each in crowd:
        each.join()
    memory.append(_megabytes(server))
    per_second = len(taken) / (60 * minutes)
    slow = {"alone_p99": float(np.quantile(alone, 0.99)), "taken_p99": float(np.quantile(taken, 0.99))}
    told = {str(status): count for status, count in sorted(statuses.items())}
    return {"statuses": told, "per_second": per_second, **slow, "room_seconds": ROOM / per_second, "megabytes": memory}


def _megabytes(server: subprocess.Popen[bytes]) -> float:
    return float(psutil.Process(server.pid).memory_info().rss / 1e6)


if __name__ == "__main__":
    main()
