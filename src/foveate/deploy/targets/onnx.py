"""ONNX files, computed by ONNX Runtime."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from foveate.deploy.targets import (
    METADATA_KEY,
    ExportProgram,
    LoadedProgram,
    QuantizableExporter,
    foreign_file,
    num_threads,
    parse_metadata,
    trace,
)
from foveate.deploy.targets._onnx_graph import find_danger
from foveate.errors import UsageError, WeightsError, require_packages
from foveate.utils.memory import total_memory

if TYPE_CHECKING:
    import numpy as np

_OPSET = 20
_POOLED = "pooled"  # the output with the features that a head reads
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_HINT = "foveate export RUN"
# the key of a tensor whose data lie in another file, as protobuf encodes it
_EXTERNAL_DATA = b"\n\x08location"


class Onnx(QuantizableExporter):
    """Writes ONNX files, and opens them with ONNX Runtime on the CPU."""

    summary: ClassVar[str] = "ONNX, for ONNX Runtime and many other runtimes"
    suffix: ClassVar[str] = ".onnx"

    def write(self, program: ExportProgram, metadata: dict[str, Any], path: Path) -> None:
        require_packages("export", "onnx", "onnxscript")
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about internals of the exporter
            names: dict[str, Any] = {
                "input_names": list(program.example),
                "output_names": program.outputs,
            }
            exported = torch.onnx.export(
                trace(program), dynamo=True, opset_version=_OPSET, verbose=False, **names
            )
        assert exported is not None
        exported.model.metadata_props[METADATA_KEY] = json.dumps(metadata, ensure_ascii=False)
        exported.save(str(path), external_data=False)

    def open(self, path: Path) -> LoadedProgram:
        """Open a file; tensors that lie in other files are refused, wherever those are.

        Reading them has been a way out of the folder (CVE-2022-25882, CVE-2024-27318), and files of
        Foveate contain everything themselves.
        """
        require_packages("export", "onnxruntime")
        import onnxruntime

        content = path.read_bytes()
        if _EXTERNAL_DATA in content:
            raise WeightsError(
                "this file keeps tensors in other files, which are not read",
                where=path,
                hint=f"{_HINT}, which writes one file",
            )
        try:
            why = find_danger(content)
        except ValueError as error:
            raise _not_opened(path, str(error)) from None
        if why:
            raise foreign_file(path, why)
        _bound_memory()
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.log_severity_level, options.intra_op_num_threads = 4, num_threads()
        try:
            session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors share no base class but Exception
            raise _not_opened(path, str(error).splitlines()[0][:200]) from None
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if text is None:
            raise UsageError("foveate export did not write this file", where=path, hint=_HINT)
        names = [output.name for output in session.get_outputs()]

        def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            try:
                return dict(zip(names, session.run(names, inputs), strict=True))
            except Exception as error:  # its errors share no base class but Exception
                why = str(error).splitlines()[0][-200:]
                raise WeightsError(
                    "ONNX Runtime cannot compute this file", where=path, why=why, hint=_HINT
                ) from None

        return LoadedProgram(parse_metadata(text, path), run)

    def quantize(
        self, path: Path, batches: Iterator[np.ndarray], metadata: dict[str, Any], output: Path
    ) -> None:
        """Quantize statically (Jacob et al. 2018): QDQ format, weights per channel.

        Some nodes stay in float32, because 256 steps of a probability or a coordinate cost accuracy
        and the nodes take little time: those after the last product, and where pooled features are
        an output, the head that reads them.
        """
        require_packages("export", "onnx", "onnxruntime")
        import onnx
        from onnxruntime.quantization import (
            CalibrationDataReader,
            QuantFormat,
            QuantType,
            quantize_static,
        )
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class BatchReader(CalibrationDataReader):  # type: ignore[misc]
            def get_next(self) -> dict[str, np.ndarray] | None:
                images = next(batches, None)
                return None if images is None else {"images": images}

        prepared = output.with_suffix(".prepared.onnx")
        try:
            with _errors_only():  # it warns about the preparation that is done here
                quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
                graph = onnx.load(str(prepared)).graph
                quantize_static(
                    str(prepared),
                    str(output),
                    BatchReader(),
                    per_channel=True,
                    nodes_to_exclude=sorted(_after_products(graph) | _after_pooling(graph)),
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    quant_format=QuantFormat.QDQ,
                )
        finally:
            prepared.unlink(missing_ok=True)
        model = onnx.load(str(output), load_external_data=False)
        others = [entry for entry in model.metadata_props if entry.key != METADATA_KEY]
        del model.metadata_props[:]
        model.metadata_props.extend(others)
        onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata, ensure_ascii=False)})
        onnx.save(model, str(output))


@cache
def _bound_memory() -> None:
    """Bound what all sessions of this process allocate to half of the memory of the machine."""
    import onnxruntime

    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    arena = onnxruntime.OrtArenaCfg({"max_mem": total_memory() // 2})
    onnxruntime.create_and_register_allocator(memory, arena)


def _not_opened(path: Path, why: str) -> WeightsError:
    return WeightsError("ONNX Runtime cannot open this file", where=path, why=why, hint=_HINT)


@contextmanager
def _errors_only() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _after_pooling(graph: Any) -> set[str]:
    """Return the names of the nodes behind the pooled features, if these are an output."""
    others = [output.name for output in graph.output if output.name != _POOLED]
    if len(others) == len(graph.output) or not others:
        return set()
    return {node.name for node in graph.node} - _leading_to(graph, [_POOLED])


def _after_products(graph: Any) -> set[str]:
    """Return the names of the nodes that no product follows."""
    products = [node for node in graph.node if node.op_type in _PRODUCTS]
    inputs = [name for node in products for name in node.input]
    return {node.name for node in graph.node if node not in products} - _leading_to(graph, inputs)


def _leading_to(graph: Any, values: Iterable[str]) -> set[str]:
    """Return the names of the nodes that these values are computed from."""
    producers = {output: node for node in graph.node for output in node.output}
    remaining, names = list(values), set[str]()
    while remaining:
        node = producers.get(remaining.pop())
        if node is not None and node.name not in names:
            names.add(node.name)
            remaining += node.input
    return names
