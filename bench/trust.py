"""Attacks on decoding, the server, and files made by others: memory and time of each.

    python bench/trust.py [images] [server] [files]  # Linux; about two minutes

Prints the tables of docs/benchmarks/robustness.md. Every attack is a function or an entry of a
table: images in tests/hostile_images.py, files in tests/hostile_files.py, requests below. The
server is that of `foveate serve` with a network that costs nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
sys.path.append(str(TESTS))
import hostile_files  # noqa: E402
from hostile_images import LARGE, SLOW, tiny  # noqa: E402
from small_server import SLEEP, HealthWatch, SmallServer, request  # noqa: E402

START = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
SILENT = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\nabc"
INFER = "/v2/models/stub/infer"
FORM = b'--e\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\n'


def main() -> None:
    chosen = sys.argv[1:] or ["images", "server", "files"]
    for name, function in (("images", images), ("server", server), ("files", files)):
        if name in chosen:
            function()


def images() -> None:
    """What refusing each image costs."""
    rows = _measure("measure_images.py", "hostile")
    print("\n| image | CPU time, s | memory, MB |\n|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {row['seconds']:.2f} | {row['peak'] / 1e6:.0f} |")


def files() -> None:
    """What opening and computing each file costs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, make in hostile_files.ONNX.items():
            (folder / f"{kind}.onnx").write_bytes(make())
        for kind in ("constant", "loop"):
            hostile_files.write_openvino(folder, kind)
        for kind in ("expanded", "shared", "compressed"):
            content = getattr(hostile_files, f"{kind}_weights")()
            (folder / f"{kind}.pt").write_bytes(content)
        rows = _measure("measure_files.py", name)
    print("\n| file | time, s | memory until then, MB | answer |\n|---|---|---|---|")
    for name, row in rows.items():
        why = row["error"].partition("why: ")[2].partition("; try")[0][:80]
        print(f"| {name} | {row['seconds']:.2f} | {row['peak'] / 1e6:.0f} | {why} |")


def _measure(script: str, argument: str) -> dict[str, dict]:
    command = [sys.executable, TESTS / script, argument]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


# --- the server


def server() -> None:
    """What each attack costs the server, and what others see of it meanwhile."""
    print("\n| attack | answers | memory, MB | health, s | others served |\n|---|---|---|---|---|")
    with SmallServer(grace=3) as running:
        running.served(3, tiny("PNG"))
        for attack in ATTACKS:
            before = running.begin_peak()
            with HealthWatch(running) as watch:
                thread = threading.Thread(target=_collect, args=(attack, running, answers := []))
                thread.start()
                time.sleep(0.3)
                served = running.served(20, tiny("PNG"))
                thread.join()
            name = (attack.__doc__ or "").rstrip(".")
            statuses = ", ".join(f"{key} x {count}" for key, count in Counter(answers).items())
            peak = (running.memory() - before) / 1e6
            print(f"| {name} | {statuses} | {peak:.0f} | {watch.worst:.1f} | {served} of 20 |")
        with running.begin(request("POST", "/predict", body=SLEEP)):
            time.sleep(0.3)
            code, seconds = running.stop()
        print(f"\nSIGTERM with --grace 3 while an image is decoded: code {code}, {seconds:.1f} s")
        print(f"tracebacks in the log: {running.text.count('Traceback')}")


def _collect(
    attack: Callable[[SmallServer], list[bytes]], running: SmallServer, answers: list[str]
) -> None:
    answers += [answer[9:12].decode() or "closed" for answer in attack(running)]


def _together(count: int, call: Callable[[], bytes]) -> list[bytes]:
    """The answers to the same request, sent by so many clients at once."""
    answers: list[bytes] = []
    threads = [threading.Thread(target=lambda: answers.append(call())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def _hold(running: SmallServer, count: int, content: bytes, seconds: float) -> list[bytes]:
    """Open connections that send this and nothing more; returns what the last one gets."""
    connections = [running.begin(content) for _ in range(count)]
    time.sleep(seconds)
    for connection in connections:
        connection.close()
    return [b"HTTP/1.1 ---"]


def small_headers(running: SmallServer) -> list[bytes]:
    """200 MB of small headers."""
    return [running.exchange(START + b"a: b\r\n" * 33_000_000)]


def long_path(running: SmallServer) -> list[bytes]:
    """a path of 50 MB."""
    return [running.exchange(b"GET /" + b"a" * 50_000_000)]


def long_trailer(running: SmallServer) -> list[bytes]:
    """a trailer of 50 MB."""
    return [running.exchange(CHUNKED + b"1\r\na\r\n0\r\nX: " + b"a" * 50_000_000)]


def chunk_extension(running: SmallServer) -> list[bytes]:
    """a chunk with an extension of 50 MB."""
    return [running.exchange(CHUNKED + b"1;" + b"a" * 50_000_000)]


def tiny_chunks(running: SmallServer) -> list[bytes]:
    """8 bodies of 3 million chunks of a byte."""
    return _together(8, lambda: running.exchange(CHUNKED + b"1\r\na\r\n" * 3_000_000))


def pipelined(running: SmallServer) -> list[bytes]:
    """20 times 100,000 requests on a connection."""
    return _together(20, lambda: running.exchange((START + b"\r\n") * 100_000))


def unfinished_heads(running: SmallServer) -> list[bytes]:
    """900 connections with half a head."""
    return _hold(running, 900, b"GET / HT", 2)


def silent_bodies(running: SmallServer) -> list[bytes]:
    """400 bodies that do not come."""
    return _hold(running, 400, SILENT, 2)


def many_bodies(running: SmallServer) -> list[bytes]:
    """40 bodies of 19 MB."""
    return _together(40, lambda: running.post("/predict", bytes(19_000_000)))


def empty_objects(running: SmallServer) -> list[bytes]:
    """6 times JSON of 6.5 million objects."""
    body = b'{"inputs":[' + b"{}," * 6_500_000 + b"{}]}"
    return _together(6, lambda: running.post(INFER, body))


def long_text(running: SmallServer) -> list[bytes]:
    """6 times JSON with a text of 18 MB."""
    start = b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"data":["'
    return _together(6, lambda: running.post(INFER, start + b"a" * 18_000_000 + b'"]}]}'))


def many_parts(running: SmallServer) -> list[bytes]:
    """forms of 200,000 parts, 3 million headers, a header of 19 MB."""
    kind = "Content-Type: multipart/form-data; boundary=e"
    bodies = ((FORM + b"\r\n") * 200_000, b"--e\r\n" + b"a: b\r\n" * 3_000_000)
    bodies += (b"--e\r\nX: " + b"a" * 19_000_000,)
    return [running.post("/predict", body, kind) for body in bodies]


def unread_responses(running: SmallServer) -> list[bytes]:
    """200 clients that ask and do not read."""
    return _hold(running, 200, b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 8, 2)


def costly_images(running: SmallServer) -> list[bytes]:
    """each of the images above, 4 at once."""
    answers = list[bytes]()
    for make in (*SLOW.values(), *LARGE.values()):
        content = make()
        if len(content) < 20_000_000:
            answers += _together(4, lambda body=content: running.post("/predict", body))
    return answers


ATTACKS = (
    small_headers,
    long_path,
    long_trailer,
    chunk_extension,
    tiny_chunks,
    pipelined,
    unfinished_heads,
    silent_bodies,
    many_bodies,
    empty_objects,
    long_text,
    many_parts,
    unread_responses,
    costly_images,
)

if __name__ == "__main__":
    main()
