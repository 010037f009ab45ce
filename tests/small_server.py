"""A server with the real limits and a network that costs nothing, in a process of its own.

    python tests/small_server.py '{"max_queue": 64}' [GRACE] [FRAMING]

Prints its address as `foveate serve` does. `SmallServer` starts it, and measures it from outside.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SIDE = 64  # px
SLEEP = b"sleep"


class StubEngine:
    """Decodes as exported files do, and predicts the same for every image.

    What begins with SLEEP takes a minute to decode.
    """

    name, classes, metadata = "stub", ("a",), {"task": "classify", "explains": False}

    def __init__(self, framing: str = "crop") -> None:
        self.framing = framing

    def decode(self, content: bytes) -> Any:
        from foveate.deploy.runtime import preprocess

        if content.startswith(SLEEP):
            time.sleep(60)
        return preprocess(content, SIDE, self.framing)

    def predict(self, images: Sequence[Any]) -> list[dict[str, Any]]:
        return [{"prediction": "a", "scores": {"a": 1.0}} for _ in images]


def main(limits: str, grace: str = "30", framing: str = "crop") -> None:
    from foveate.api.serve.core import serve_engines
    from foveate.serving import protocol, requests
    from foveate.serving.state import Limits

    logging.basicConfig(level=logging.INFO)
    options = json.loads(limits)
    for name, value in options.pop("seconds", {}).items():
        module = protocol if hasattr(protocol, name) else requests
        setattr(module, name, value)
    serve_engines({"stub": StubEngine(framing)}, "127.0.0.1", 0, Limits(**options), float(grace))


class SmallServer:
    """A running server.

    Args:
        seconds: By their names, times of the server that are shorter in a test.
        limits: Those of `Limits`.
        grace: Seconds to finish after a signal.
        framing: Of the images.
    """

    def __init__(self, grace: float = 30, framing: str = "crop", **limits: Any) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.log = Path(self._folder.name) / "log"
        command = [sys.executable, __file__, json.dumps(limits), str(grace), framing]
        with self.log.open("w", encoding="utf-8") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file)
        end = time.monotonic() + 60
        while not (match := re.search(r"127\.0\.0\.1:(\d+)", self.text)):
            assert self.process.poll() is None, self.text
            assert time.monotonic() < end, self.text
            time.sleep(0.02)
        self.port = int(match[1])
        assert self.get("/v2/health/live").startswith(b"HTTP/1.1 200")

    def __enter__(self) -> SmallServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._folder.cleanup()

    @property
    def text(self) -> str:
        """The log."""
        return self.log.read_text(encoding="utf-8")

    def memory(self, name: str = "VmHWM") -> int:
        """Its memory in bytes: VmHWM, the peak, or VmRSS, now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return 1024 * int(re.search(rf"{name}:\s+(\d+)", status)[1])

    def begin_peak(self) -> int:
        """Let the peak begin here; returns the memory now."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5", encoding="ascii")
        return self.memory("VmRSS")

    def connect(self, timeout: float = 30, source: str = "127.0.0.1") -> socket.socket:
        """Connect from an address of this machine."""
        return socket.create_connection(("127.0.0.1", self.port), timeout, (source, 0))

    def exchange(self, request: bytes, timeout: float = 30) -> bytes:
        """Send bytes, and return all that comes until the server closes the connection."""
        response = b""
        with self.connect(timeout) as connection:
            try:
                connection.sendall(request)
                while part := connection.recv(65_536):
                    response += part
            except (TimeoutError, ConnectionError):
                pass
        return response

    def get(self, path: str, *headers: str, timeout: float = 30) -> bytes:
        return self.exchange(request("GET", path, *headers), timeout)

    def post(self, path: str, body: bytes, *headers: str, timeout: float = 60) -> bytes:
        return self.exchange(request("POST", path, *headers, body=body), timeout)

    def begin(self, content: bytes, source: str = "127.0.0.1") -> socket.socket:
        """Send bytes, and keep the connection."""
        connection = self.connect(source=source)
        connection.sendall(content)
        return connection

    def served(self, count: int, image: bytes) -> int:
        """How many of so many predictions, one after the other, are answered."""
        answers = [self.post("/predict", image) for _ in range(count)]
        return sum(answer.startswith(b"HTTP/1.1 200") for answer in answers)

    def stop(self, seconds: float = 60) -> tuple[int, float]:
        """Send SIGTERM; returns the exit code and the seconds until then."""
        start = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds), time.monotonic() - start


def request(
    method: str, path: str, *headers: str, body: bytes | None = None, host: str = "localhost"
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
    lines += [f"Content-Length: {len(body)}"] if body is not None else []
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


class HealthWatch:
    """Asks for the health of a server ten times a second; `worst` is the slowest answer, s."""

    def __init__(self, server: SmallServer) -> None:
        self.server, self.worst, self.failures = server, 0.0, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            start = time.monotonic()
            try:
                is_live = b" 200 " in self.server.get("/v2/health/live")[:20]
            except OSError:
                is_live = False
            self.failures += not is_live
            self.worst = max(self.worst, time.monotonic() - start)

    def __enter__(self) -> HealthWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
