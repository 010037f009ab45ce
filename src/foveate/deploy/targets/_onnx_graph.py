"""The graph of an ONNX file, judged before a runtime computes anything of it.

Reads the few fields of the protobuf format that it needs, without the package onnx: exported files
are opened where there is none.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

from foveate.deploy.targets import MAX_ELEMENTS

_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_INPUT, _NODE_OUTPUT, _NODE_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_INTS = 5, 6, 8
_ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = 11, 22
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_INT64, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 7, 8, 9
_INT64 = 7  # data type
_DOMAINS = ("", "ai.onnx")
# operators whose output is as large as numbers in the file say, and the input with these numbers
_SHAPED = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}
_MAX_NUMBERS = 64  # of a tensor that can be a shape

_SPARSE = "it has sparse constants"

Field = tuple[int, int | memoryview]


def find_danger(content: bytes) -> str | None:
    """Return why a file should not be run; None if nothing speaks against it.

    Refused are control flow, of which a loop may have no end, functions, which may contain
    themselves, operators of other domains than ONNX's, and constants that a file asks for without
    containing them. `foveate export` writes none of these.

    Raises:
        ValueError: It is not a file of the ONNX format.
    """
    try:
        return _judge(memoryview(content))
    except (IndexError, struct.error):
        raise ValueError("it ends early") from None


def _judge(model: memoryview) -> str | None:
    for number, graph in _fields(model):
        if number == _MODEL_FUNCTIONS:
            return "it defines functions"
        if number == _MODEL_GRAPH and isinstance(graph, memoryview):
            why = _judge_graph(graph)
            if why:
                return why
    return None


def _judge_graph(graph: memoryview) -> str | None:
    shapes, shaped = dict[bytes, int](), list[tuple[str, bytes]]()
    for number, part in _fields(graph):
        if not isinstance(part, memoryview):
            continue
        if number == _GRAPH_SPARSE:
            return _SPARSE
        if number == _GRAPH_INITIALIZER:
            name, elements = _stated_elements(part)
            shapes[name] = elements
        if number == _GRAPH_NODE:
            kind, inputs, outputs, constant, why = _read_node(part)
            if why:
                return why
            if constant is not None:
                shapes |= dict.fromkeys(outputs, constant)
            if kind in _SHAPED and len(inputs) > _SHAPED[kind]:
                shaped.append((kind, inputs[_SHAPED[kind]]))
    for kind, name in shaped:
        if shapes.get(name, 0) > MAX_ELEMENTS:
            return f"{kind} makes a tensor of {shapes[name]:,} elements"
    return None


def _read_node(
    node: memoryview,
) -> tuple[str, list[bytes], list[bytes], int | None, str | None]:
    """Type, inputs and outputs of a node, the elements that its constant states, and a danger."""
    kind, inputs, outputs, constant, why = "", list[bytes](), list[bytes](), None, None
    for number, value in _fields(node):
        content = bytes(value) if isinstance(value, memoryview) else b""
        if number == _NODE_INPUT:
            inputs.append(content)
        elif number == _NODE_OUTPUT:
            outputs.append(content)
        elif number == _NODE_TYPE:
            kind = content.decode("utf-8", "replace")[:50]
        elif number == _NODE_DOMAIN and content.decode("utf-8", "replace") not in _DOMAINS:
            why = f"it has operators of {content[:50].decode('utf-8', 'replace')}"
        elif number == _NODE_ATTRIBUTE and isinstance(value, memoryview):
            for part, inner in _fields(value):
                if part in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                    why = "it has loops or branches"
                if part == _ATTRIBUTE_SPARSE:
                    why = _SPARSE
                if part == _ATTRIBUTE_TENSOR and isinstance(inner, memoryview):
                    constant = _stated_elements(inner)[1]
                if part == _ATTRIBUTE_INTS:
                    ints = _varints(inner) if isinstance(inner, memoryview) else [inner]
                    constant = _product([*ints, constant or 1])
    return kind, inputs, outputs, constant if kind == "Constant" else None, why


def _stated_elements(tensor: memoryview) -> tuple[bytes, int]:
    """The name of a tensor, and the product of its values if it may be a shape, else 0."""
    name, raw, values, kind = b"", b"", list[int](), 0
    for number, value in _fields(tensor):
        if number == _TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif number == _TENSOR_NAME and isinstance(value, memoryview):
            name = bytes(value)
        elif number == _TENSOR_RAW and isinstance(value, memoryview):
            raw = bytes(value[: 8 * _MAX_NUMBERS])
        elif number == _TENSOR_INT64:
            values += _varints(value) if isinstance(value, memoryview) else [value]
    if kind != _INT64:
        return name, 0
    values += struct.unpack(f"<{len(raw) // 8}q", raw[: len(raw) // 8 * 8])
    return name, _product(values)


def _product(values: list[int]) -> int:
    return math.prod(max(1, each) for each in values[:_MAX_NUMBERS])


def _varints(content: memoryview) -> list[int]:
    values, position = list[int](), 0
    while position < len(content) and len(values) < _MAX_NUMBERS:
        value, position = _varint(content, position)
        values.append(value)
    return values


def _fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message: numbers, and bytes of everything else."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if kind == 0:
            value, position = _varint(message, position)
            yield key >> 3, value
            continue
        if kind == 2:
            size, position = _varint(message, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("an unknown kind of field")
        if position + size > len(message):
            raise ValueError("a field ends after its message")
        yield key >> 3, message[position : position + size]
        position += size


def _varint(content: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("a number is too long")
