"""What a picture or a request may cost is decided before it is paid: docs/trust.md, T43 to T52.

Memory and time are measured in fresh processes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foveate.api.serve import serve
from foveate.errors import UsageError

pytest.importorskip("fastapi", reason="needs the extra 'serve'")
import hostile_files
from foveate.serving import protocol, requests
from hostile_images import LARGE, SLOW, encoded, tiny
from small_server import SLEEP, HealthWatch, SmallServer, request

TESTS = Path(__file__).parent
MEGABYTE, DECODED = 1_000_000, 60_000_000
IMAGE, HOSTILE = tiny("PNG"), {**SLOW, **LARGE}
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


def in_fresh_process(script: str, *arguments: object) -> dict:
    """Run a script of this folder; returns the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, TESTS / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- images


@linux
def test_t43_costly_pictures_are_refused_by_their_headers():
    """In less than a second and 64 MB each, also those that no bound on pixels refuses."""
    rows = in_fresh_process("measure_images.py", "hostile")
    for name, row in rows.items():
        kind = "too long|deflated" if row["kind"] == "slow" else "too large"
        assert re.search(kind, row["error"]), name
        assert row["seconds"] < 1, name
        # the package for DICOM is loaded, and a deflated file is inflated up to 64 MB
        assert row["peak"] < (150 if name.startswith("DICOM") else 64) * MEGABYTE, name


@linux
def test_t43_decoding_takes_no_more_memory_than_is_computed_from_the_header():
    """Of every mode and format, whole and resized; and the figure is not a wild guess."""
    rows = in_fresh_process("measure_images.py", "honest")
    for name, row in rows.items():
        assert row["peak"] <= row["computed"], name
        assert row["computed"] <= 4 * row["peak"] + 32 * MEGABYTE, name


# --- the server


@pytest.fixture(scope="module")
def server() -> Iterator[SmallServer]:
    with SmallServer(
        grace=3,
        max_decoded_bytes=DECODED,
        seconds={"HEAD_SECONDS": 1.5, "HEAD_START": 1.5, "KEEP_ALIVE_SECONDS": 1},
    ) as running:
        assert running.served(1, IMAGE) == 1
        yield running
        assert running.served(1, IMAGE) == 1  # nothing ended it
        assert "Traceback" not in running.text
        assert running.stop()[0] == 0


def several(calls: Sequence[Callable[[], bytes]]) -> Counter[bytes]:
    """The status codes of requests that are sent at the same time."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return Counter(answer[9:12] for answer in pool.map(lambda call: call(), calls))


@linux
@pytest.mark.parametrize("framing", ["crop", "windows"])
def test_t44_the_memory_of_the_server_is_what_its_formula_says(framing):
    """Pictures of all kinds, each nearly as large as is accepted, more of them than decoders."""
    ramp = np.add.outer(np.arange(1400), np.arange(1400)).astype(np.uint8)
    gray = Image.fromarray(ramp)
    rgba = Image.merge("RGBA", [gray] * 4)
    pictures = [
        encoded(rgba, "PNG", compress_level=1),
        encoded(Image.merge("RGB", [gray] * 3), "JPEG", progressive=True, subsampling=0),
        encoded(Image.fromarray(ramp.astype(np.float32)), "TIFF", compression="tiff_lzw"),
        encoded(rgba.resize((1200, 1200)), "WEBP", lossless=True, method=0),
        encoded(Image.merge("RGB", [gray] * 3).quantize(9), "GIF"),
    ]
    with SmallServer(framing=framing, max_decoded_bytes=DECODED) as server:
        assert server.served(1, IMAGE) == 1
        before = server.begin_peak()
        answers = several([partial(server.post, "/predict", each) for each in pictures * 3])
        assert answers == {b"200": 15}
        assert server.memory() - before < 5 * DECODED  # four decoders, and what waits


@linux
def test_t44_costly_pictures_cost_the_server_nothing(server):
    before = server.begin_peak()
    with HealthWatch(server) as watch:
        for make in (HOSTILE["PNG: 1 x 178,000,000"], HOSTILE["JPEG: 5000 scans"]):
            answers = several([partial(server.post, "/predict", make())] * 8)
            assert answers == {b"400": 8}
    assert server.memory() - before < 50 * MEGABYTE
    assert watch.worst < 3
    assert watch.failures == 0


def test_t45_the_server_ends_in_time_whatever_is_being_decoded():
    """Threads cannot be ended; the client is told."""
    with SmallServer(grace=1) as server:
        with server.begin(request("POST", "/predict", body=SLEEP)) as waiting:
            time.sleep(0.5)
            code, seconds = server.stop()
            assert waiting.recv(1000).startswith(b"HTTP/1.1 503")
        assert code == 0
        assert seconds < 1 + 3
        assert "Traceback" not in server.text


@linux
def test_t46_heads_are_bounded(server):
    """Whatever they are made of: many headers, a long one, a long path, a trailer, an extension."""
    start = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
    chunked = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    before = server.begin_peak()
    for head in (
        start + b"a: b\r\n" * 1_000_000,
        start + b"X: " + b"a" * 5_000_000,
        b"GET /" + b"a" * 5_000_000,
        start + b"a: b\r\n" * 200 + b"\r\n",
        start + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
        chunked + b"1\r\na\r\n0\r\n" + b"X: a\r\n" * 1_000_000,
    ):
        assert server.exchange(head).startswith(b"HTTP/1.1 431")
    for body in (
        b"1\r\na\r\n0\r\nX: " + b"a" * 5_000_000,
        b"1;" + b"a" * 5_000_000,
        b"1\r\na\r\n" * 3_000_000,
    ):
        assert server.exchange(chunked + body).startswith(b"HTTP/1.1 400")
    assert server.exchange(start.replace(b"/ H", b"/?" + b"a&" * 9000 + b" H") + b"\r\n")[9:12] == (
        b"414"
    )
    assert server.exchange((start + b"\r\n") * 100_000)[9:12] in (b"429", b"200")
    assert server.memory() - before < 20 * MEGABYTE


def test_t46_silent_connections_end_and_keep_nobody_out(server):
    """More of them than there are places; a line break now and then is silence, too."""
    assert (protocol.HEAD_SECONDS, protocol.KEEP_ALIVE_SECONDS) == (10, 5)
    idle = [server.begin(b"GET / HT") for _ in range(protocol.MAX_CONNECTIONS + 100)]
    start = time.monotonic()
    assert server.served(20, IMAGE) == 20
    assert time.monotonic() - start < 10
    assert idle[-1].recv(100).startswith(b"HTTP/1.1 408")
    for connection in idle:
        connection.close()
    kept = server.begin(request("GET", "/v2").replace(b"Connection: close\r\n", b""))
    assert kept.recv(1000).startswith(b"HTTP/1.1 200")
    start = time.monotonic()
    with suppress(ConnectionError):
        while time.monotonic() - start < 20:
            kept.sendall(b"\r\n")
            time.sleep(0.2)
    assert time.monotonic() - start < 10
    kept.close()


SILENT = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\nabc"


def test_t47_bodies_that_do_not_come_keep_nobody_out(server):
    """80 clients that send nothing, as in the attack, and then more than there are places."""
    assert (requests.HEAD_START, requests.MIN_RATE) == (5, 10_000)
    silent = [server.begin(SILENT) for _ in range(80)]
    assert server.served(30, IMAGE) == 30
    silent += [server.begin(SILENT) for _ in range(requests.MAX_ARRIVING)]
    time.sleep(0.5)
    assert server.served(30, IMAGE) == 30
    assert silent[-1].recv(1000)[9:12] in (b"408", b"429")  # slower than allowed, or no place
    for connection in silent:
        connection.close()


@linux
def test_t47_who_sends_nothing_loses_to_another_address(server):
    """At once, while bodies of the same address would not be cut yet."""
    silent = [server.begin(SILENT, "127.0.0.2") for _ in range(requests.MAX_ARRIVING + 30)]
    assert server.served(20, IMAGE) == 20
    for connection in silent:
        connection.close()


@linux
def test_t47_the_bytes_of_all_bodies_are_bounded():
    with SmallServer(max_bodies_bytes=60_000_000) as server:
        before = server.begin_peak()
        answers = several([partial(server.post, "/predict", bytes(19_000_000))] * 12)
        assert answers.keys() <= {b"400", b"408", b"429"}
        assert server.memory() - before < 2 * 60_000_000 + 4 * 20_000_000
        assert server.served(5, IMAGE) == 5


@linux
def test_t48_json_is_parsed_in_bounded_memory_and_not_where_requests_are_accepted(server):
    objects = b'{"inputs":[' + b"{}," * 6_500_000 + b"{}]}"
    image = b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"data":["'
    long = image + b"a" * 18_000_000 + b'"]}]}'
    before = server.begin_peak()
    with HealthWatch(server) as watch:
        for body in (objects, long, b"1" * 19_000_000):
            infer = partial(server.post, "/v2/models/stub/infer", body)
            assert several([infer] * 4) == {b"400": 4}
    assert server.memory() - before < 300 * MEGABYTE  # of four bodies of 19.5 MB; were 2,000
    assert watch.worst < 2
    zeros = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1]}]}
    zeros["inputs"][0]["parameters"] = {"binary_data_size": 8_000_000}
    text = json.dumps(zeros).encode()
    length = f"Inference-Header-Content-Length: {len(text)}"
    assert b"send 1 to 32" in server.post("/v2/models/stub/infer", text + bytes(8_000_000), length)


def test_t49_only_requests_for_this_server_are_answered(server):
    """A page of another site reaches a local server by pointing its own name at it."""

    def status(*hosts: str) -> bytes:
        lines = "".join(f"Host: {host}\r\n" for host in hosts)
        return server.exchange(f"GET /v2 HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode())[
            9:12
        ]

    assert {status(host) for host in ("localhost", "127.0.0.1:80", "LOCALHOST.")} == {b"200"}
    assert {status(host) for host in ("evil.example", "localhost.evil.example", "")} == {b"421"}
    assert (status(), status("localhost", "localhost")) == (b"400", b"400")
    assert server.exchange(b"GET /v2 HTTP/1.0\r\n\r\n")[9:12] == b"200"
    with SmallServer(hosts=["Vision.example"], token="secret") as named:
        line = request("GET", "/v2", "Authorization: Bearer secret", host="vision.example:8000")
        assert named.exchange(line)[9:12] == b"200"
        assert named.get("/v2")[9:12] == b"401"
        assert b"stub" not in named.get("/metrics")
        assert b'model="stub"' in named.get("/metrics", "Authorization: Bearer secret")


def test_t49_other_machines_need_a_token(monkeypatch):
    monkeypatch.delenv("FOVEATE_TOKEN", raising=False)
    for host in ("0.0.0.0", "::", "192.0.2.1", "vision.example"):
        with pytest.raises(UsageError, match="without a token"):
            serve(Path("nothing"), host=host)
    for options in ({"host": "0.0.0.0", "no_token": True}, {"host": "::1"}):
        with pytest.raises(UsageError, match="there is no run"):
            serve(Path("nothing"), **options)


def test_t50_text_that_is_not_unicode_is_an_error_of_the_client(server):
    tensor = b'"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"data":["YQ=="]}]}'
    for start in (
        b'{"id":"\\ud800",',
        b'{"outputs":[{"name":"\\udfff"}],',
        b'{"id":"\xed\xa0\x80",',
    ):
        assert server.post("/v2/models/stub/infer", start + tensor)[9:12] == b"400"
    assert server.get("/v2/models/%ed%a0%80")[9:12] == b"404"


def test_t50_a_client_that_leaves_is_one_line(server):
    start = len(server.text)
    for _ in range(5):
        server.begin(SILENT).close()
    end = time.monotonic() + 20
    while server.text[start:].count('"status": 499') < 5:
        assert time.monotonic() < end, server.text[start:]
        time.sleep(0.05)
    assert len(server.text[start:].splitlines()) == 5


def test_t50_openapi_states_bodies_and_errors(server):
    content = json.loads(server.get("/openapi.json").partition(b"\r\n\r\n")[2])
    for path in ("/predict", "/explain", "/v2/models/{name}/infer"):
        operation = content["paths"][path]["post"]
        assert operation["requestBody"]["content"]
        assert {"400", "401", "408", "413", "421", "429", "503"} <= operation["responses"].keys()


# --- files made by others


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> dict[str, dict]:
    """What files made by others cost, by name."""
    pytest.importorskip("onnx", reason="needs the extra 'export'")
    pytest.importorskip("openvino", reason="needs the extra 'export'")
    folder = tmp_path_factory.mktemp("foreign")
    for name, make in hostile_files.ONNX.items():
        (folder / f"{name}.onnx").write_bytes(make())
    for index, metadata in enumerate(hostile_files.ODD_METADATA):
        identity = onnx_helper().make_node("Cast", ["images"], ["y"], to=1)
        content = hostile_files.onnx_file([identity], metadata=metadata)
        (folder / f"metadata {index}.onnx").write_bytes(content)
    for kind in ("constant", "loop"):
        hostile_files.write_openvino(folder, kind)
    for name in ("expanded", "shared", "compressed"):
        content = getattr(hostile_files, f"{name}_weights")()
        (folder / f"{name}.pt").write_bytes(content)
    return in_fresh_process("measure_files.py", folder)


def onnx_helper() -> Any:
    from onnx import helper

    return helper


@linux
def test_t51_exported_files_of_others_end_in_a_sentence(foreign):
    """Loops, functions, constants of gigabytes, odd descriptions; none takes memory or time."""
    for name in (*(f"{each}.onnx" for each in hostile_files.ONNX), "constant.xml", "loop.xml"):
        assert "is not run" in foreign[name]["error"] or "cannot compute" in foreign[name]["error"]
    for index in range(len(hostile_files.ODD_METADATA)):
        assert foreign[f"metadata {index}.onnx"]["error"]
    rows = [row for name, row in foreign.items() if not name.endswith(".pt")]
    assert max(row["peak"] for row in rows) < 600 * MEGABYTE
    assert max(row["seconds"] for row in rows) < 10


def test_t51_the_files_that_are_refused_differ_from_those_that_run(tmp_path):
    """The same file without the danger is computed."""
    pytest.importorskip("onnx", reason="needs the extra 'export'")
    from foveate.deploy.runtime import open_exported

    small = {"shape": np.array([7], np.int64), "x": np.ones(1, np.float32)}
    path = tmp_path / "small.onnx"
    nodes = [onnx_helper().make_node("Expand", ["x", "shape"], ["y"])]
    path.write_bytes(hostile_files.onnx_file(nodes, small))
    assert open_exported(path).run(np.zeros((1, 3, 8, 8), np.uint8))["y"].shape == (7,)


@linux
def test_t52_weights_cost_no_more_than_their_file(foreign):
    """Whether tensors repeat a number, share memory, or are compressed."""
    assert "compressed" in foreign["compressed.pt"]["error"]
    for name in ("expanded.pt", "shared.pt"):
        assert "larger than the file" in foreign[name]["error"]
        assert foreign[name]["peak"] < 1000 * MEGABYTE  # torch itself takes 300


def test_t52_tied_weights_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    from foveate.modeling.weights import read_tensors

    tied = torch.randn(50, 20)
    tensors = {"x": tied, "y": tied, "z": torch.randn(3, 2).t(), "empty": torch.zeros(0)}
    torch.save({"state_dict": tensors}, tmp_path / "tied.pt")
    read = read_tensors(tmp_path / "tied.pt")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
