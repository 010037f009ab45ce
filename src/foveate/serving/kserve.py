"""The Open Inference Protocol, version 2: tensors as JSON, or as bytes after the JSON.

The latter is Triton's extension for binary tensor data. A model takes `image`, BYTES [B]: encoded
images. It returns `prediction`, BYTES [B], a JSON text for each, and `scores`, FP32 [B, K], if it
classifies.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from typing import Any

import numpy as np

from foveate.serving.engines import Engine
from foveate.serving.requests import RequestError

HEADER = "inference-header-content-length"  # with the length of the JSON, if bytes follow it
# of that length, fewer digits: int() refuses thousands of them
_MAX_DIGITS = 19
# of the JSON: braces, brackets, commas and colons, of which a request has some dozens. Base64 has
# none of them; an object in memory takes a hundred bytes
_MAX_MARKS = 10_000
_MAX_ID = 1000  # characters; it is sent back
_TOO_MUCH = "the JSON of the request has too many values"


def metadata(engine: Engine) -> dict[str, Any]:
    """Return the metadata of a model."""
    inputs = [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    outputs = [{"name": "prediction", "datatype": "BYTES", "shape": [-1]}]
    if engine.metadata["task"] == "classify":
        outputs.append({"name": "scores", "datatype": "FP32", "shape": [-1, len(engine.classes)]})
    return {
        "name": engine.name,
        "versions": ["1"],
        "platform": "foveate",
        "inputs": inputs,
        "outputs": outputs,
        "parameters": {**engine.metadata, "classes": list(engine.classes)},
    }


def parse_request(
    body: bytes, header: str | None, max_images: int
) -> tuple[dict[str, Any], list[bytes]]:
    """Parse an inference request.

    Args:
        body: The body.
        header: The value of `HEADER`, if there is one.
        max_images: Greatest number of images.

    Returns:
        The JSON of the request, and its encoded images.

    Raises:
        RequestError: The request is invalid (400).
    """
    length = _json_length(header, body)
    try:
        request = _parse_json(body[:length])
        tensor = next(each for each in request["inputs"] if each["name"] == "image")
        datatype, shape, data = tensor["datatype"], tensor["shape"], tensor.get("data")
        parameters = tensor.get("parameters", {})
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError):
        raise RequestError(
            400, "this is not a V2 inference request with an input named 'image'"
        ) from None
    is_list = isinstance(shape, list) and len(shape) == 1
    if datatype != "BYTES" or not is_list or not isinstance(parameters, dict):
        raise RequestError(
            400, "the input 'image' must have the datatype BYTES and the shape [B]: encoded images"
        )
    if data is None:
        images = _split_bytes(memoryview(body)[length:], parameters, max_images)
    else:
        images = _decode_texts(data, max_images)
        tensor["data"] = ()  # not needed any more, and the largest part of the request
    count = len(images)
    if not 0 < count <= max_images:
        raise _wrong_number(max_images, str(count))
    if [count] != shape:
        raise RequestError(
            400,
            f"the input 'image' has another shape than [{count}]: "
            f"{count} {'image was' if count == 1 else 'images were'} sent",
        )
    if len(str(request.get("id", ""))) > _MAX_ID:
        raise RequestError(400, f"the id of the request is longer than {_MAX_ID} characters")
    return request, images


def _wrong_number(max_images: int, count: str) -> RequestError:
    return RequestError(400, f"send 1 to {max_images} images in a request, not {count}")


def _parse_json(text: bytes) -> Any:
    """Parse JSON of few values.

    Raises:
        RequestError: It has too many, or text that is not Unicode (400).
        ValueError: It is not JSON.
    """
    if sum(map(text.count, (b"[", b"{", b",", b":"))) > _MAX_MARKS:
        raise RequestError(400, _TOO_MUCH)
    content = json.loads(text.decode())
    # half of a pair of surrogates is valid JSON but cannot be sent back
    if b"\\u" in text and not _is_unicode(content):
        raise RequestError(400, "the request contains text that is not valid Unicode")
    return content


def _is_unicode(content: Any) -> bool:
    """Whether all names and texts can be encoded."""
    if isinstance(content, dict):
        return all(_is_unicode(each) for pair in content.items() for each in pair)
    if isinstance(content, list):
        return all(map(_is_unicode, content))
    try:
        return not isinstance(content, str) or bool(content.encode()) or not content
    except UnicodeEncodeError:
        return False


def build_response(
    request: dict[str, Any], engine: Engine, rows: list[dict[str, Any]], binary: bool
) -> tuple[bytes, str | None]:
    """Build the response to a request.

    Args:
        request: The JSON of the request.
        engine: The model.
        rows: The predictions.
        binary: Whether outputs are sent as bytes unless the request says otherwise.

    Returns:
        The body, and the length of its JSON if bytes follow it.

    Raises:
        RequestError: The request wants an output that does not exist (400).
    """
    texts = [json.dumps(row, ensure_ascii=False) for row in rows]
    tensors: dict[str, tuple[str, list[int], Any]] = {"prediction": ("BYTES", [len(rows)], texts)}
    if engine.metadata["task"] == "classify":
        scores = np.array(
            [[row["scores"][name] for name in engine.classes] for row in rows], np.float32
        )
        tensors["scores"] = ("FP32", list(scores.shape), scores)
    outputs, after_json = [], b""
    for name, as_bytes in _requested_outputs(request, tensors, binary).items():
        datatype, shape, values = tensors[name]
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if as_bytes:
            content = _to_bytes(datatype, values)
            output["parameters"] = {"binary_data_size": len(content)}
            after_json += content
        else:
            output["data"] = values.ravel().tolist() if datatype == "FP32" else values
        outputs.append(output)
    response = {"model_name": engine.name, "model_version": "1", "outputs": outputs}
    response |= {"id": request["id"]} if isinstance(request.get("id"), str) else {}
    text = json.dumps(response, ensure_ascii=False).encode()
    return text + after_json, str(len(text)) if after_json else None


def _requested_outputs(
    request: dict[str, Any], tensors: dict[str, Any], binary: bool
) -> dict[str, bool]:
    """Return the names of the outputs, all by default, and whether each is sent as bytes."""
    named = request.get("outputs") or [{"name": name} for name in tensors]
    try:
        outputs = {
            each["name"]: bool(each.get("parameters", {}).get("binary_data", binary))
            for each in named
        }
    except (KeyError, TypeError, AttributeError):
        raise RequestError(400, "the field 'outputs' of the request is invalid") from None
    unknown = [name for name in outputs if name not in tensors]
    if unknown:
        raise RequestError(
            400,
            f"there is no output named {str(unknown[0])[:100]!r}; outputs: {', '.join(tensors)}",
        )
    return outputs


def _json_length(header: str | None, body: bytes) -> int:
    """Return the length of the JSON at the beginning of a body."""
    if header is None:
        return len(body)
    # isdigit() alone accepts digits outside ASCII
    is_number = header.isascii() and header.isdigit() and len(header) < _MAX_DIGITS
    if not is_number or int(header) > len(body):
        raise RequestError(
            400, "the header Inference-Header-Content-Length does not fit the length of the body"
        )
    return int(header)


def _split_bytes(content: memoryview, parameters: dict[str, Any], max_images: int) -> list[bytes]:
    """Return the elements of a binary BYTES tensor: each follows its length, a uint32, in bytes."""
    size, elements, start = parameters.get("binary_data_size"), list[bytes](), 0
    if not isinstance(size, int) or size != len(content):
        raise RequestError(400, "'binary_data_size' is not the number of bytes after the JSON")
    while start < size:
        if start + 4 > size:
            raise RequestError(400, "the binary data end within the length of an image")
        (length,) = struct.unpack_from("<I", content, start)
        if start + 4 + length > size:
            raise RequestError(400, "the binary data end within an image")
        if len(elements) == max_images:
            raise _wrong_number(max_images, "more")
        elements.append(bytes(content[start + 4 : start + 4 + length]))
        start += 4 + length
    return elements


def _decode_texts(data: Any, max_images: int) -> list[bytes]:
    """Return the elements of a BYTES tensor in JSON."""
    if isinstance(data, list) and len(data) > max_images:
        raise _wrong_number(max_images, str(len(data)))
    if not isinstance(data, list) or not all(isinstance(each, str) for each in data):
        raise RequestError(400, "'data' must be a list of images in base64")
    try:
        return [base64.b64decode(each, validate=True) for each in data]
    except (binascii.Error, ValueError):
        raise RequestError(400, "an image in 'data' is not valid base64") from None


def _to_bytes(datatype: str, values: Any) -> bytes:
    if datatype == "FP32":
        return bytes(values.tobytes())
    elements = [text.encode() for text in values]
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)
