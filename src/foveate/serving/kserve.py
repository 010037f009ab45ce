"""The Open Inference Protocol, version 2: tensors as JSON, or as bytes behind the JSON (Triton's binary extension).

A model takes `image`, BYTES [B]: encoded pictures. It gives `answer`, BYTES [B], a JSON text each, and where it classifies
`scores`, FP32 [B, K].
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from typing import Any

import numpy as np

from foveate.serving.engines import Engine
from foveate.serving.requests import Refused

_DIGITS = 19  # fewer than so many, in the length of a header: int() refuses thousands, and takes others than those of ASCII
HEADER = "inference-header-content-length"


def metadata(engine: Engine) -> dict[str, Any]:
    outputs = [{"name": "answer", "datatype": "BYTES", "shape": [-1]}]
    if engine.about["task"] == "classify":
        outputs.append({"name": "scores", "datatype": "FP32", "shape": [-1, len(engine.classes)]})
    inputs = [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    about = {
        "name": engine.name,
        "versions": ["1"],
        "platform": "foveate",
        "inputs": inputs,
        "outputs": outputs,
    }
    return {**about, "parameters": {**engine.about, "classes": list(engine.classes)}}


def asked(body: bytes, header: str | None, most: int) -> tuple[dict[str, Any], list[bytes]]:
    """The request's JSON, and its pictures. Raises Refused."""
    length = _length(header, body)
    try:
        request = json.loads(body[:length])
        tensor = next(each for each in request["inputs"] if each["name"] == "image")
        kind, shape, parameters = tensor["datatype"], tensor["shape"], tensor.get("parameters", {})
        data = tensor.get("data")
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError):
        raise Refused(400, "this is no V2 request with the input 'image'") from None
    if (
        kind != "BYTES"
        or not isinstance(shape, list)
        or len(shape) != 1
        or not isinstance(parameters, dict)
    ):
        raise Refused(400, "the input 'image' is BYTES of the shape [B]: encoded pictures")
    pictures = _binary(body[length:], parameters) if data is None else _texts(data)
    if [len(pictures)] != shape or not 0 < len(pictures) <= most:
        raise Refused(
            400,
            f"the shape says {shape}, there are {len(pictures)} pictures, and 1 to {most} are taken at once",
        )
    return request, pictures


def answered(
    request: dict[str, Any], engine: Engine, rows: list[dict[str, Any]], binary: bool
) -> tuple[bytes, str | None]:
    """The response, and the length of its JSON where bytes follow."""
    texts = [json.dumps(row, ensure_ascii=False) for row in rows]
    tensors: dict[str, tuple[str, list[int], Any]] = {"answer": ("BYTES", [len(rows)], texts)}
    if engine.about["task"] == "classify":
        scores = np.array(
            [[row["scores"][name] for name in engine.classes] for row in rows], np.float32
        )
        tensors["scores"] = ("FP32", list(scores.shape), scores)
    wanted = _wanted(request, tensors, binary)
    outputs, behind = [], b""
    for name, as_bytes in wanted.items():
        kind, shape, values = tensors[name]
        row: dict[str, Any] = {"name": name, "datatype": kind, "shape": shape}
        if as_bytes:
            packed = (
                values.tobytes()
                if kind == "FP32"
                else b"".join(_sized(text.encode()) for text in values)
            )
            row["parameters"], behind = {"binary_data_size": len(packed)}, behind + packed
        else:
            row["data"] = values.ravel().tolist() if kind == "FP32" else values
        outputs.append(row)
    told = {"model_name": engine.name, "model_version": "1", "outputs": outputs}
    told |= {"id": request["id"]} if isinstance(request.get("id"), str) else {}
    text = json.dumps(told, ensure_ascii=False).encode()
    return text + behind, str(len(text)) if behind else None


def _wanted(request: dict[str, Any], tensors: dict[str, Any], binary: bool) -> dict[str, bool]:
    """name -> whether as bytes; all where none are named. Raises Refused for a name that is not there."""
    named = request.get("outputs") or [{"name": name} for name in tensors]
    try:
        found = {
            each["name"]: bool(each.get("parameters", {}).get("binary_data", binary))
            for each in named
        }
    except (KeyError, TypeError, AttributeError):
        raise Refused(400, "the outputs of this request cannot be read") from None
    unknown = [name for name in found if name not in tensors]
    if unknown:
        raise Refused(400, f"there is no output {unknown[0]!r}; there are {', '.join(tensors)}")
    return found


def _length(header: str | None, body: bytes) -> int:
    if header is None:
        return len(body)
    if not (header.isascii() and header.isdigit() and len(header) < _DIGITS) or int(header) > len(
        body
    ):
        raise Refused(400, "the inference header is longer than the body")
    return int(header)


def _binary(content: bytes, parameters: dict[str, Any]) -> list[bytes]:
    """Each element behind its length, four bytes, the lowest first."""
    size, found, place = parameters.get("binary_data_size"), list[bytes](), 0
    if not isinstance(size, int) or size != len(content):
        raise Refused(400, "the bytes behind this request are not as many as it says")
    while place < size:
        if place + 4 > size:
            raise Refused(400, "the bytes behind this request end within a length")
        (length,) = struct.unpack_from("<I", content, place)
        if place + 4 + length > size:
            raise Refused(400, "the bytes behind this request end within a picture")
        found.append(content[place + 4 : place + 4 + length])
        place += 4 + length
    return found


def _texts(data: Any) -> list[bytes]:
    if not isinstance(data, list) or not all(isinstance(each, str) for each in data):
        raise Refused(400, "pictures in JSON are a list of base64 texts")
    try:
        return [base64.b64decode(each, validate=True) for each in data]
    except (binascii.Error, ValueError):
        raise Refused(400, "a picture in JSON is no base64 text") from None


def _sized(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content
