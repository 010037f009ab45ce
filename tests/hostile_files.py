"""Exported files and weights that cost much, as an attacker would write them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

BILLIONS = 2_000_000_000
METADATA = {
    "format": 2, "task": "classify", "classes": ["a"], "multilabel": False, "size": 8,
    "threshold": 0.0, "framing": "crop", "parts": {}, "backbone": "x", "license": "x",
    "precision": "fp32",
}  # fmt: skip


def onnx_file(
    nodes: Sequence[Any],
    constants: dict[str, Any] | None = None,
    metadata: Any = METADATA,
    functions: Sequence[Any] = (),
) -> bytes:
    """An ONNX file from `images` to `y`."""
    from onnx import TensorProto, helper, numpy_helper

    values = {name: np.asarray(value) for name, value in (constants or {}).items()}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["b", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions)
    model.ir_version = 10
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    helper.set_model_props(model, {"foveate": text})
    return bytes(model.SerializeToString())


def endless_loop() -> bytes:
    from onnx import TensorProto, helper

    boolean = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("c", "d")]
    step = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"])], "body", [step, boolean[0]], [boolean[1]]
    )
    nodes = [
        helper.make_node("Cast", ["images"], ["y"], to=1),
        helper.make_node("Loop", ["n", "go"], [], body=body),
    ]
    return onnx_file(nodes, {"n": np.int64(2**62), "go": np.bool_(True)})


def calls_a_function() -> bytes:
    from onnx import helper

    inner = helper.make_node("Twice", ["x"], ["z"], domain="own")
    function = helper.make_function(
        "own", "Twice", ["x"], ["z"], [inner], [helper.make_opsetid("own", 1)]
    )
    return onnx_file(
        [helper.make_node("Twice", ["images"], ["y"], domain="own")], functions=[function]
    )


def large_constant(operator: str) -> bytes:
    from onnx import helper

    inputs = {"ConstantOfShape": ["shape"], "Expand": ["x", "shape"], "Tile": ["x", "shape"]}
    constants = {"shape": np.array([BILLIONS], np.int64), "x": np.ones(1, np.float32)}
    return onnx_file([helper.make_node(operator, inputs[operator], ["y"])], constants)


def large_product() -> bytes:
    """40,000 x 40,000 numbers from two vectors: 6.4 GB, which no size in the file states."""
    from onnx import helper

    constants = {"a": np.ones((40_000, 1), np.float32), "b": np.ones((1, 40_000), np.float32)}
    return onnx_file([helper.make_node("MatMul", ["a", "b"], ["y"])], constants)


ONNX: dict[str, Callable[[], bytes]] = {
    "a loop without end": endless_loop,
    "a function that calls itself": calls_a_function,
    "ConstantOfShape": lambda: large_constant("ConstantOfShape"),
    "Expand": lambda: large_constant("Expand"),
    "Tile": lambda: large_constant("Tile"),
    "a product of vectors": large_product,
}
ODD_METADATA: list[Any] = [
    "[]", "{", "[" * 100_000, {}, [], {**METADATA, "format": 99}, {**METADATA, "size": 10**9},
    {**METADATA, "size": -1}, {**METADATA, "size": "8"}, {**METADATA, "framing": "x"},
    {**METADATA, "classes": 7}, {**METADATA, "threshold": [1]}, {**METADATA, "parts": [1]},
    {**METADATA, "parts": {"a": 5}}, {**METADATA, "parts": {str(i): "x" for i in range(99)}},
    {**METADATA, "task": ["classify"]}, {**METADATA, "task": "x" * 10_000}, {"part": 1},
    {**METADATA, "part": "a"}, {**METADATA, "part": "a", "of": 3},
    {**METADATA, "task": "caption", "vocabulary": [], "generation": {"beams": 10**9}},
    {**METADATA, "generation": 3},
]  # fmt: skip


def write_openvino(folder: Path, kind: str) -> Path:
    """A file with a constant of 8 GB, or with a loop."""
    import openvino
    from openvino import opset13 as operators

    images = operators.parameter([-1, 3, 8, 8], np.uint8, name="images")
    if kind == "constant":
        shape = operators.constant(np.array([BILLIONS], np.int64))
        large = operators.broadcast(operators.constant(np.float32(1)), shape)
        total = operators.reduce_sum(large, operators.constant(np.array([0])))
        result = operators.add(total, operators.convert(images, "f32"))
    else:
        inner, go = operators.parameter([], np.float32), operators.constant(np.bool_(True))
        body = openvino.Model([operators.add(inner, inner), go], [inner])
        loop = operators.loop(operators.constant(np.int64(2**62)), operators.constant(True))
        loop.set_function(body)
        loop.set_special_body_ports([-1, 1])
        start = operators.constant(np.float32(1))
        loop.set_merged_input(inner, start.output(0), body.results[0].output(0))
        loop.get_iter_value(body.results[0].output(0), -1)
        result = operators.add(loop.output(0), operators.convert(images, "f32"))
    model = openvino.Model([result], [images])
    model.set_rt_info(json.dumps(METADATA), "foveate")
    path = folder / f"{kind}.xml"
    openvino.serialize(model, str(path))
    return path


def expanded_weights() -> bytes:
    """A tensor of 2.8 GB that is one number."""
    import torch

    return _saved({"a": torch.zeros(1).expand(700_000_000)})


def shared_weights() -> bytes:
    """A thousand tensors in the memory of one."""
    import torch

    memory = torch.zeros(1_000_000)
    return _saved({f"a{start}": memory[start:] for start in range(1000)})


def compressed_weights() -> bytes:
    """Zeros, a thousand times as many as the file has bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/data/0", bytes(200_000_000))
    return content.getvalue()


def _saved(tensors: Any) -> bytes:
    import torch

    content = io.BytesIO()
    torch.save(tensors, content)
    return content.getvalue()
