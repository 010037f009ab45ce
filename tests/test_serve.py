"""The server: correct predictions on every route, and limits that hold whatever comes in."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

import foveate
from browser import NAMES, Browser
from conftest import make_stripes_folder
from foveate.predictions import Boxes, Regions
from foveate.utils.rle import encode_rle

pytest.importorskip("fastapi", reason="needs the extra 'serve'")
pytest.importorskip("prometheus_client", reason="needs the extra 'serve'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
from foveate.serving.batching import Batcher, QueueFull, WorkerPools
from helpers import without_evaluation

MAX_BYTES, TIMEOUT, MAX_QUEUE = 200_000, 3.0, 6
OPTIONS = {"backbone": "test_efficientnet", "weights": "none", "size": 32, "device": "cpu"}
SETTINGS = {
    "data.near_duplicates": 1,
    "data.leakage_audit": False,
    "data.val": 0.3,
    "data.test": 0.1,
    "training.precision": "fp32",
    "training.channels_last": True,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    data = make_stripes_folder(tmp_path_factory.mktemp("data") / "stripes", 60)
    with without_evaluation():
        return foveate.fit(
            data,
            tuning="probe",
            out=tmp_path_factory.mktemp("runs") / "stripes-run",
            settings=SETTINGS,
            **OPTIONS,
        ).run


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[Path]:
    return sorted(
        make_stripes_folder(tmp_path_factory.mktemp("queries") / "stripes", 6, seed=9).rglob(
            "*.png"
        )
    )


def start_server(
    folder: Path, *paths: Path, token: str = "", **options: object
) -> tuple[subprocess.Popen, int]:
    """Start a server on a free port; `folder` gets its log."""
    flags = [
        part
        for name, value in options.items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    command = [
        sys.executable,
        "-m",
        "foveate",
        "serve",
        *map(str, paths),
        "--port",
        "0",
        "--device",
        "cpu",
        *flags,
    ]
    log = folder / f"{time.monotonic_ns()}.log"
    with log.open("w", encoding="utf-8") as file:
        server = subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, "FOVEATE_TOKEN": token}
        )
    end = time.monotonic() + 150
    while time.monotonic() < end and server.poll() is None:
        match = re.search(r"serving on http://127.0.0.1:(\d+)", log.read_text(encoding="utf-8"))
        if match and is_live(int(match.group(1))):
            return server, int(match.group(1))
        time.sleep(0.1)
    server.kill()
    server.wait()
    raise AssertionError(log.read_text(encoding="utf-8"))


def is_live(port: int) -> bool:
    with suppress(OSError):
        return send(port, "/v2/health/live")[0] == 200
    return False


def stop_server(server: subprocess.Popen) -> int:
    server.send_signal(signal.SIGTERM)
    return server.wait(60)


@pytest.fixture(scope="module")
def port(run, tmp_path_factory) -> Iterator[int]:
    """The port of a server of a run and its exported file, with a short queue."""
    file = foveate.export(run, out=tmp_path_factory.mktemp("file")).files[0].path
    folder, renamed = file.parent, file.rename(file.with_name("stripes-file.onnx"))
    server, port = start_server(
        folder,
        run,
        renamed,
        max_queue=MAX_QUEUE,
        max_body_mb=MAX_BYTES / 1e6,
        request_timeout=TIMEOUT,
        max_batch=4,
    )
    yield port
    assert server.poll() is None  # no request ended it
    assert stop_server(server) == 0


def send(port: int, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST" if body is not None else "GET", path, body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    content_type = response.headers.get("content-type", "")
    return (
        response.status,
        json.loads(content)
        if "json" in content_type
        else {"text": content.decode("utf-8", "replace")},
        dict(response.headers),
    )


def send_raw(port: int, content: bytes, timeout: float = 30.0) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        connection.sendall(content)
        try:
            return connection.recv(4096)
        except TimeoutError:
            return b""


# --- predictions


@pytest.mark.parametrize("model", ["stripes-run", "stripes-file"])
def test_predictions_are_those_of_the_run(port, run, images, model):
    expected = [prediction.row() for prediction in foveate.predict(run, images)]
    for path, row in zip(images, expected, strict=True):
        status, response, headers = send(port, f"/predict?model={model}", path.read_bytes())
        assert status == 200
        assert response["model"] == model
        assert response["prediction"] == row["prediction"]
        assert response["prediction_set"] == row["prediction_set"]
        assert response["confidence"] == pytest.approx(row["confidence"], abs=1e-4)
        assert headers["x-content-type-options"] == "nosniff"


def test_multipart_forms_are_accepted(port, images):
    boundary = "0123456789"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    body = head.encode() + images[0].read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    status, response, _ = send(
        port, "/predict", body, **{"content-type": f"multipart/form-data; boundary={boundary}"}
    )
    assert status == 200
    assert response["prediction"] == send(port, "/predict", images[0].read_bytes())[1]["prediction"]


def test_the_protocol_in_json(port, run, images):
    chosen = images[:3]
    texts = [base64.b64encode(path.read_bytes()).decode() for path in chosen]
    body = json.dumps(
        {"id": "7", "inputs": [{"name": "image", "datatype": "BYTES", "shape": [3], "data": texts}]}
    ).encode()
    status, response, _ = send(port, "/v2/models/stripes-file/infer", body)
    assert status == 200
    assert (response["model_name"], response["id"]) == ("stripes-file", "7")
    outputs = {output["name"]: output for output in response["outputs"]}
    expected = [prediction.row() for prediction in foveate.predict(run, chosen)]
    assert [json.loads(text)["prediction"] for text in outputs["prediction"]["data"]] == [
        row["prediction"] for row in expected
    ]
    scores = np.array(outputs["scores"]["data"]).reshape(outputs["scores"]["shape"])
    np.testing.assert_allclose(
        scores, [list(row["scores"].values()) for row in expected], atol=1e-4
    )
    metadata = send(port, "/v2/models/stripes-file")[1]
    assert metadata["parameters"]["classes"] == ["lying", "upright"]
    assert send(port, "/v2")[1]["models"] == ["stripes-run", "stripes-file"]
    assert send(port, "/v2/health/live")[1] == {"live": True}
    assert send(port, "/v2/models/stripes-run/ready")[0] == 200


def test_another_http_client(port, run, images):
    triton = pytest.importorskip("tritonclient.http", reason="needs the package tritonclient[http]")
    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    try:
        assert client.is_server_ready()
        assert client.is_model_ready("stripes-file")
        inputs = triton.InferInput("image", [4], "BYTES")
        inputs.set_data_from_numpy(
            np.array([path.read_bytes() for path in images[:4]], dtype=np.object_)
        )
        result = client.infer(
            "stripes-file",
            [inputs],
            outputs=[
                triton.InferRequestedOutput("prediction"),
                triton.InferRequestedOutput("scores", binary_data=False),
            ],
        )
        expected = [prediction.row() for prediction in foveate.predict(run, images[:4])]
        assert [json.loads(text)["prediction"] for text in result.as_numpy("prediction")] == [
            row["prediction"] for row in expected
        ]
        np.testing.assert_allclose(
            result.as_numpy("scores"), [list(row["scores"].values()) for row in expected], atol=1e-4
        )
    finally:
        client.close()


def test_a_kept_connection_is_answered_at_once(port):
    """Not 40 ms later, when the client has acknowledged the headers (Nagle's algorithm)."""
    connection, seconds = http.client.HTTPConnection("127.0.0.1", port, timeout=30), []
    for _ in range(30):
        start = time.perf_counter()
        connection.request("GET", "/v2/health/live")
        assert json.loads(connection.getresponse().read()) == {"live": True}
        seconds.append(time.perf_counter() - start)
    connection.close()
    assert min(seconds[1:]) < 0.03


# --- invalid requests


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/predict", b"no picture", 400, "cannot be decoded"),
        ("/predict", b"", 400, "contains no image"),
        ("/predict?model=../../etc/passwd", b"x", 404, "no model of this name"),
        ("/v2/models/other/infer", b"{}", 404, "no model of this name"),
        ("/v2/models/stripes-run/infer", b"{", 400, "not a V2 inference request"),
        ("/v2/models/stripes-run/infer", b"[" * 5_000, 400, "not a V2 inference request"),
        ("/v2/models/stripes-run/infer", b"[" * 100_000, 400, "too many values"),
        (
            "/v2/models/stripes-run/infer",
            b'{"inputs": [{"name": "image", "datatype": "FP32", "shape": [1], "data": [1]}]}',
            400,
            "encoded images",
        ),
        (
            "/v2/models/stripes-run/infer",
            b'{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [2], "data": ["YQ=="]}]}',
            400,
            "1 image was sent",
        ),
        (
            "/v2/models/stripes-run/infer",
            b'{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["?"]}]}',
            400,
            "base64",
        ),
        (
            "/v2/models/stripes-run/infer",
            b'{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [0], "data": []}]}',
            400,
            "send 1 to 4 images",
        ),
    ],
)
def test_t40_bad_requests_are_one_error_message(port, path, body, status, message):
    response = send(port, path, body)
    assert response[0] == status
    assert message in response[1]["error"]
    assert not re.search(r"/(tmp|root|work|home|usr)/|Traceback|\.py", response[1]["error"])


@pytest.mark.parametrize(
    ("header", "binary"),
    [
        ("5", b""),
        ("999999", b""),
        ("x", b""),
        ("120", b"\x00\x00\x00"),
        ("120", b"\xff\xff\xff\xff12"),
    ],
)
def test_bytes_behind_the_json_are_counted(port, header, binary):
    text = json.dumps(
        {
            "inputs": [
                {
                    "name": "image",
                    "datatype": "BYTES",
                    "shape": [1],
                    "parameters": {"binary_data_size": len(binary)},
                }
            ]
        }
    ).encode()
    length = str(len(text)) if header == "120" else header
    status, response, _ = send(
        port,
        "/v2/models/stripes-run/infer",
        text + binary,
        **{"Inference-Header-Content-Length": length},
    )
    assert status == 400
    assert response["error"]


def test_t38_the_size_of_a_body_is_measured_and_not_trusted(port, images):
    """With a large, a small and no length, in chunks, as a form without a file or without parts."""
    assert send(port, "/predict", b"x" * (MAX_BYTES + 1))[0] == 413
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
    assert b" 413 " in send_raw(port, head + b"Content-Length: 999999999999\r\n\r\n")
    chunk = b"%x\r\n" % 50_000 + b"y" * 50_000 + b"\r\n"
    assert b" 413 " in send_raw(port, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 5)
    small = b"1\r\nz\r\n"
    assert b" 400 " in send_raw(
        port, head + b"Transfer-Encoding: chunked\r\n\r\n" + small * 1000 + b"0\r\n\r\n"
    )
    assert b" 400 " in send_raw(port, head + b"Content-Length: many\r\n\r\n")
    too_short = send_raw(port, head + b"Content-Length: 3\r\n\r\nabcdefghij")
    assert b" 400 " in too_short
    form = (
        b'--e\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"w" * 1000 + b"\r\n--e--\r\n"
    )
    assert (
        send(port, "/predict", form, **{"content-type": "multipart/form-data; boundary=e"})[0]
        == 400
    )
    assert send(port, "/predict", b"x", **{"content-type": "multipart/form-data"})[0] == 400
    assert (
        send(port, "/predict", b"a=b", **{"content-type": "application/x-www-form-urlencoded"})[0]
        == 400
    )
    assert send(port, "/predict", images[0].read_bytes())[0] == 200


def test_t38_slow_bodies_are_cut_off(port, images):
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    start = time.perf_counter()
    assert b" 408 " in send_raw(port, head + b"slow", timeout=60)
    assert TIMEOUT <= time.perf_counter() - start < 60
    assert send(port, "/predict", images[0].read_bytes())[0] == 200


def test_t26_a_bomb_costs_nothing(port, tmp_path):
    from PIL import Image

    bomb = tmp_path / "bomb.png"
    Image.new("1", (30_000, 30_000)).save(bomb)
    assert bomb.stat().st_size < MAX_BYTES
    status, response, _ = send(port, "/predict", bomb.read_bytes())
    assert status == 400
    assert "pixels" in response["error"]


def test_t40_nothing_is_fetched_or_opened(port, images):
    for body in (
        b"http://127.0.0.1:1/secret.png",
        b"file:///etc/passwd",
        str(images[0]).encode(),
    ):
        assert send(port, "/predict", body)[0] == 400
    for path in ("/../../etc/passwd", "/page.js/../app.py", "/app.py", "/docs"):
        assert send(port, path)[:2] == (404, {"error": "there is nothing at this path"})
    error = {"error": "this path does not support the method"}
    assert send(port, "/predict")[:2] == (405, error)


# --- a full queue


def test_t39_a_full_queue_gets_429():
    """Images that are being predicted fill the queue; others are refused until it is free."""

    async def scenario() -> list[bool | str]:
        engine = SlowEngine(block=True)
        batcher = Batcher(engine, max_batch=1, max_wait=0.0, max_queue=2, pools=WorkerPools(1000))
        batcher.start()

        async def predict() -> dict:
            async with batcher.reserve():
                return await batcher.predict(b"x")

        requests = [asyncio.ensure_future(predict()) for _ in range(2)]
        await asyncio.to_thread(engine.begun.acquire)
        was_full = batcher.is_full
        with pytest.raises(QueueFull):
            await predict()
        engine.may_end.set()
        rows = [*await asyncio.gather(*requests), await predict()]
        await batcher.stop()
        return [was_full, batcher.is_full, *(row["prediction"] for row in rows)]

    assert asyncio.run(scenario()) == [True, False, "x", "x", "x"]


def test_t39_a_flood_is_answered_or_refused(port, run, images):
    body, expected = images[0].read_bytes(), foveate.predict(run, images[:1])[0].row()["prediction"]
    with ThreadPoolExecutor(24) as pool:
        responses = list(pool.map(lambda _: send(port, "/predict", body), range(240)))
    assert {status for status, _, _ in responses} <= {200, 429}
    predictions = [row for status, row, _ in responses if status == 200]
    assert len(predictions) >= MAX_QUEUE
    assert {row["prediction"] for row in predictions} == {expected}


def in_flight(port: int) -> int:
    """Images that the server is reading or predicting for the run."""
    text = send(port, "/metrics")[1]["text"]
    match = re.search(r'foveate_images_in_flight\{model="stripes-run"\} (\d+)', text)
    assert match
    return int(match.group(1))


def body_bytes(port: int) -> int:
    """Bytes of request bodies that the server holds."""
    text = send(port, "/metrics")[1]["text"]
    match = re.search(r"foveate_body_bytes (\d+)", text)
    assert match
    return int(match.group(1))


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Poll until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


class SlowEngine:
    """Takes 50 ms for each batch, and with `block` waits until `may_end` is set."""

    name, classes, metadata = "slow", ("a",), {"task": "classify"}

    def __init__(self, block: bool = False) -> None:
        self.sizes: list[int] = []
        self.begun, self.may_end = threading.Semaphore(0), threading.Event()
        if not block:
            self.may_end.set()

    def decode(self, content: bytes) -> bytes:
        return content

    def predict(self, images: list[bytes]) -> list[dict]:
        self.sizes.append(len(images))
        self.begun.release()
        self.may_end.wait(60)
        time.sleep(0.05)
        if b"bad" in images:
            raise RuntimeError("a planted fault")
        return [{"prediction": image.decode()} for image in images]


def test_requests_are_batched_and_each_gets_its_own_prediction():
    async def scenario() -> tuple[list, list]:
        engine = SlowEngine()
        batcher = Batcher(engine, max_batch=4, max_wait=0.02, max_queue=20, pools=WorkerPools(1000))
        batcher.start()
        results = await asyncio.gather(
            *(batcher.predict(str(index).encode()) for index in range(10))
        )
        errors = await asyncio.gather(batcher.predict(b"bad"), return_exceptions=True)
        after = await batcher.predict(b"fine")
        await batcher.stop()
        return engine.sizes, [*results, *errors, after]

    sizes, results = asyncio.run(scenario())
    assert [row["prediction"] for row in results[:10]] == [str(index) for index in range(10)]
    assert max(sizes) == 4
    assert len(sizes) <= 7
    assert isinstance(results[10], RuntimeError)
    assert results[11] == {"prediction": "fine"}


def test_a_lone_request_is_not_delayed_and_many_are_batched():
    async def scenario() -> tuple[float, list[int]]:
        engine = SlowEngine()
        batcher = Batcher(engine, max_batch=8, max_wait=20.0, max_queue=20, pools=WorkerPools(1000))
        batcher.start()
        start = time.perf_counter()
        for _ in range(3):
            await batcher.predict(b"alone")
        seconds = time.perf_counter() - start

        async def send_five() -> None:
            for _ in range(5):
                await batcher.predict(b"crowd")

        await asyncio.gather(*(send_five() for _ in range(4)))
        await batcher.stop()
        return seconds, engine.sizes[3:]

    seconds, sizes = asyncio.run(scenario())
    assert seconds < 15  # three times 0.05 s of work, and no wait of 20 s
    assert sum(sizes) == 20
    assert sizes.count(4) >= 4


def test_canceled_requests_are_not_predicted():
    async def scenario() -> list[int]:
        engine = SlowEngine(block=True)
        batcher = Batcher(engine, max_batch=1, max_wait=0.0, max_queue=20, pools=WorkerPools(1000))
        batcher.start()
        requests = [asyncio.ensure_future(batcher.predict(b"x")) for _ in range(6)]
        await asyncio.to_thread(engine.begun.acquire)  # the first is being predicted
        for request in requests[1:]:
            request.cancel()
        engine.may_end.set()
        await asyncio.gather(*requests, return_exceptions=True)
        await batcher.predict(b"last")  # all requests before it are done or dropped
        with pytest.raises(QueueFull):
            async with batcher.reserve(21):
                pass
        await batcher.stop()
        return engine.sizes

    assert asyncio.run(scenario()) == [1, 1]


# --- shutdown


def test_t39_running_requests_are_finished_on_shutdown(run, images, tmp_path):
    """A request in flight is answered after the signal, while readiness is 503 at once."""
    server, port = start_server(tmp_path, run, request_timeout=10, grace=20)
    body = images[0].read_bytes()
    head = (
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    )
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head + body[:10])
        wait_until(lambda: body_bytes(port) == 10)
        server.send_signal(signal.SIGTERM)
        wait_until(lambda: send(port, "/v2/health/ready")[0] == 503)
        status, _, headers = send(port, "/predict", body)
        assert status == 503
        assert "retry-after" in headers
        connection.sendall(body[10:])
        assert b" 200 " in connection.recv(4096)
    assert server.wait(60) == 0


def test_tokens(run, images, tmp_path):
    server, port = start_server(tmp_path, run, token="secret")
    try:
        assert send(port, "/predict", images[0].read_bytes())[0] == 401
        assert (
            send(port, "/predict", images[0].read_bytes(), Authorization="Bearer wrong")[0] == 401
        )
        assert (
            send(port, "/predict", images[0].read_bytes(), Authorization="Bearer secret")[0] == 200
        )
        assert send(port, "/v2/health/ready")[0] == 200
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
            assert "default-src 'none'" in page.headers["content-security-policy"]
    finally:
        assert stop_server(server) == 0


def test_runs_that_cannot_be_served_are_one_error_message(run, tmp_path, capsys):
    from foveate.cli import main as cli

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert cli._run(["serve", str(run), "--port", str(listener.getsockname()[1])]) == 2
    error = capsys.readouterr().err
    assert "cannot bind to" in error
    assert "--port ANOTHER_PORT" in error
    assert cli._run(["serve", str(run), "--host", "192.0.2.1", "--no-token", "--port", "0"]) == 2
    error = capsys.readouterr().err
    assert "--host 127.0.0.1" in error
    assert "--port" not in error
    assert cli._run(["serve", str(run), str(run), "--port", "0"]) == 2
    assert "two models have the name" in capsys.readouterr().err


# --- several runs with one backbone


def test_runs_with_equal_backbones_share_it(run, images, tmp_path):
    """Two probes and a LoRA share frozen tensors, and each predicts as it does alone."""
    from foveate.serving.engines import load_engines

    data, options = make_stripes_folder(tmp_path / "stripes", 16), {**OPTIONS, "settings": SETTINGS}
    with without_evaluation():
        probe = foveate.fit(data, tuning="probe", out=tmp_path / "probe", **options).run
    with without_evaluation():
        lora = foveate.fit(data, tuning="lora", epochs=1, out=tmp_path / "lora", **options).run
    engines = load_engines([run, probe, lora], "cpu")
    pointers = [
        {tensor.data_ptr() for tensor in engine.predictor.model.backbone.parameters()}
        for engine in engines.values()
    ]
    assert pointers[0] == pointers[1]
    assert pointers[0] < pointers[2]
    for each_run, engine in zip((run, probe, lora), engines.values(), strict=True):
        expected = [prediction.row() for prediction in foveate.predict(each_run, images)]
        rows = engine.predict([engine.decode(path.read_bytes()) for path in images])
        for row, other in zip(rows, expected, strict=True):
            assert row["prediction"] == other["prediction"]
            assert row["scores"] == pytest.approx(other["scores"], abs=1e-5)


def test_only_equal_tensors_are_shared():
    from torch import nn

    from foveate.serving.weight_sharing import share_equal_tensors

    first, equal, other = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
    equal.load_state_dict(first.state_dict())
    known: dict = {}
    assert [share_equal_tensors(layer, known) for layer in (first, equal, other)] == [
        0,
        4 * (64 + 8),
        0,
    ]
    assert equal.weight.data_ptr() == first.weight.data_ptr() != other.weight.data_ptr()


def test_windows_are_served(images, tmp_path):
    """A run that predicts in sliding windows at full resolution."""
    from foveate.serving.engines import load_engines

    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for number in range(10):
        mask = (rng.random((9, 7)) > 0.5).repeat(8, 0).repeat(8, 1)
        save_image(tmp_path / "data" / "masks" / f"{number}.png", np.uint8(255) * mask)
        save_image(
            tmp_path / "data" / "images" / f"{number}.png",
            np.where(mask[..., None], 220, 30).astype(np.uint8).repeat(3, 2),
        )
    settings = {**SETTINGS, "task.framing": "windows", "task.width": 16}
    with without_evaluation():
        run = foveate.fit(
            tmp_path / "data",
            task="segment",
            epochs=1,
            out=tmp_path / "run",
            settings=settings,
            **OPTIONS,
        ).run
    paths = sorted((tmp_path / "data" / "images").iterdir())[:3]
    engine = load_engines([run], "cpu")["run"]
    rows = engine.predict([engine.decode(path.read_bytes()) for path in paths])
    assert [row["prediction"] for row in rows] == [
        prediction.row()["prediction"] for prediction in foveate.predict(run, paths)
    ]


def save_image(path: Path, pixels: np.ndarray) -> Path:
    from PIL import Image

    Image.fromarray(pixels).save(path)
    return path


# --- explanations


def test_predictions_are_explained(port, run, images):
    """The map of `foveate explain`, scaled, over the crop that the network got."""
    from foveate.explainability.faithfulness import ExplainTarget
    from foveate.explainability.methods import DEFAULT_EXPLAINER, EXPLAINERS
    from foveate.types import Sample

    status, response, _ = send(port, "/explain?model=stripes-run", images[0].read_bytes())
    assert status == 200
    target = ExplainTarget.from_sample(foveate.load(run, device="cpu"), Sample(images[0], "a"))
    score = target.explainable_scores()[0]
    map_ = EXPLAINERS.get(DEFAULT_EXPLAINER)().explain(target.request(score)).numpy()
    assert (response["label"], response["method"], response["view"]) == (
        score.name,
        DEFAULT_EXPLAINER,
        [0, 0, 40, 40],
    )
    np.testing.assert_allclose(response["map"], map_ / map_.max(), atol=2e-3)
    status, response, _ = send(port, "/explain?model=stripes-file", images[0].read_bytes())
    assert (status, "cannot be explained" in response["error"]) == (400, True)
    assert send(port, "/explain", b"x" * (MAX_BYTES + 1))[0] == 413
    assert send(port, "/explain", b"no picture")[0] == 400


# --- the page

needs_browser = pytest.mark.skipif(
    not any(map(shutil.which, NAMES)), reason="needs a browser: apt-get install chromium"
)
SCREENSHOTS = Path(__file__).parents[1] / "test-artefacts"


@pytest.fixture
def browser(tmp_path) -> Iterator[Browser]:
    SCREENSHOTS.mkdir(exist_ok=True)
    instance = Browser(tmp_path / "profile")
    yield instance
    instance.close()


def check_page(browser: Browser, width: int, name: str, port: int) -> None:
    """Save a screenshot; nothing overlaps, overflows, logs errors or is loaded from elsewhere."""
    state = browser.inspect(width)
    (SCREENSHOTS / f"{name}-{width}.png").write_bytes(state.screenshot)
    assert (state.overlaps, state.messages) == ([], [])
    assert state.overflow <= 0
    assert all(
        address.startswith((f"http://127.0.0.1:{port}/", "blob:")) for address in state.requests
    )


@needs_browser
def test_an_image_on_the_page(port, run, images, browser):
    label = foveate.predict(run, images[:1])[0].row()["prediction"]
    for width in (1280, 390):
        browser.visit(f"http://127.0.0.1:{port}/", width)
        browser.wait_for("document.getElementById('model').value")
        browser.select_file("#file", images[0])
        text = browser.wait_for(
            f"document.getElementById('prediction').textContent.startsWith('{label}') && document.getElementById('prediction').textContent"
        )
        assert "%" in text
        check_page(browser, width, "page", port)
        browser.click("#explain")
        assert browser.wait_for(
            "shown.heatmap && document.getElementById('explanation').textContent"
        ).startswith("Strongest evidence: ")
        assert (
            browser.wait_for("document.getElementById('explain').getAttribute('aria-pressed')")
            == "true"
        )
        check_page(browser, width, "page-heatmap", port)
    browser.click("#language")
    assert browser.wait_for("document.documentElement.lang") == "zh"
    assert browser.wait_for("document.getElementById('explanation').textContent").startswith(
        "主要依据的区域："
    )
    check_page(browser, 390, "page-zh", port)


CANVAS_PIXELS = """(from => {
  const copy = Object.assign(document.createElement('canvas'), { width: from.width, height: from.height }), pen = copy.getContext('2d', { willReadFrequently: true });
  pen.drawImage(from, 0, 0);
  return Array.from(pen.getImageData(0, 0, from.width, from.height).data).join();
})(document.getElementById('canvas'))"""  # reading the page's own canvas would log a warning


class FixedEngine:
    """An engine that always returns the same row."""

    metadata, classes = {"task": "detect", "explains": False}, ("disc", "square", "ground")

    def __init__(self, name: str, row: dict) -> None:
        self.name, self.row = name, row

    def decode(self, content: bytes) -> bytes:
        return content

    def predict(self, images: list[bytes]) -> list[dict]:
        return [self.row for _ in images]


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Make (240, 330, 3) pixels and their classes: a disc, three squares and the background.

    Two of the squares touch the edges of the image.
    """
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:240, :330]
    mask = np.full((240, 330), 2)
    mask[np.hypot(y - 90, x - 110) < 60] = 0
    for top, left, side in ((150, 200, 60), (0, 290, 40), (200, 0, 40)):
        mask[top : top + side, left : left + side] = 1
    colors = np.array([(220, 160, 60), (90, 150, 220), (90, 110, 80)])
    return (colors[mask] + rng.normal(0, 12, (240, 330, 1))).clip(0, 255).astype(np.uint8), mask


@contextmanager
def serving(*engines: FixedEngine) -> Iterator[int]:
    """Serve engines in a thread; yields the port."""
    import uvicorn

    from foveate.serving.app import Limits, create_app

    server = uvicorn.Server(
        uvicorn.Config(
            create_app({engine.name: engine for engine in engines}, Limits()),
            log_level="error",
            ws="none",
        )
    )
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@needs_browser
def test_boxes_and_masks_on_the_page(browser, tmp_path):
    """Pixels of the masks have another color; all others are those of the image."""
    pixels, mask = scene()
    path = save_image(tmp_path / "scene.png", pixels)
    parts = [
        mask == 0,
        (mask == 1) & (np.mgrid[:240, :330][1] > 280),
        (mask == 1) & (np.mgrid[:240, :330][0] > 199) & (np.mgrid[:240, :330][1] < 50),
    ]
    spans = [(np.flatnonzero(part.any(0)), np.flatnonzero(part.any(1))) for part in parts]
    xyxy = np.array([(x[0], y[0], x[-1] + 1, y[-1] + 1) for x, y in spans], np.float32)
    objects = Boxes(
        xyxy,
        ("disc", "square", "square"),
        np.array([0.97, 0.8, 0.6]),
        None,
        tuple(map(encode_rle, parts)),
    )
    engines = (
        FixedEngine("objects", objects.row(FixedEngine.classes)),
        FixedEngine("regions", Regions(mask).row(FixedEngine.classes)),
    )
    expected = {"objects": np.any(parts, 0), "regions": np.ones(mask.shape, bool)}
    edges = np.zeros(mask.shape, bool)  # strokes and names of boxes
    for x0, y0, x1, y1 in xyxy.astype(int):
        edges[max(0, y0 - 22) : y1 + 3, max(0, x0 - 3) : x1 + 60] = True
        edges[y0 + 3 : y1 - 3, x0 + 3 : x1 - 3] = False
    with serving(*engines) as port:
        for width in (1280, 390):
            browser.visit(f"http://127.0.0.1:{port}/", width)
            browser.wait_for("document.getElementById('model').value")
            for model, text in (
                ("objects", "disc × 1, square × 2"),
                ("regions", "disc, square, ground"),
            ):
                browser.wait_for(f"document.getElementById('model').value = '{model}'")
                browser.wait_for(
                    "(shown = null, document.getElementById('prediction').textContent = '', true)"
                )
                browser.select_file("#file", path)
                assert (
                    browser.wait_for("shown && document.getElementById('prediction').textContent")
                    == text
                )
                values = browser.wait_for(CANVAS_PIXELS)
                shown_pixels = np.array(values.split(","), int).reshape(240, 330, 4)[..., :3]
                changed = np.abs(shown_pixels - pixels).max(-1) > 3
                certain = ~edges if model == "objects" else np.ones(mask.shape, bool)
                assert (changed == expected[model])[certain].mean() > 0.995
                check_page(browser, width, f"page-{model}", port)
            shown_shares = browser.wait_for(
                "[...document.querySelectorAll('td.n')].map(each => each.textContent).join()"
            )
            assert shown_shares == ",".join(
                f"{100 * (mask == index).mean():.1f} %" for index in range(3)
            )
