"""ONNX files, answered by ONNX Runtime."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from foveate.deploy.targets import (
    KEY,
    ExportProgram,
    LoadedProgram,
    QuantizableRuntime,
    program_of,
    threads,
)
from foveate.errors import UsageError, WeightsError, need

if TYPE_CHECKING:
    import numpy as np

_OPSET = 20
_POOLED, _PRODUCTS = "pooled", ("Conv", "ConvTranspose", "Gemm", "MatMul")
_OUTSIDE = (
    b"\n\x08location"  # the key of a tensor that lies in another file, as the format writes it
)


class Onnx(QuantizableRuntime):
    summary: ClassVar[str] = "ONNX, for ONNX Runtime and many others"
    suffix: ClassVar[str] = ".onnx"

    def write(self, program: ExportProgram, about: dict[str, Any], path: Path) -> None:
        need("export", "onnx", "onnxscript")
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own insides
            words: dict[str, Any] = {
                "input_names": list(program.example),
                "output_names": program.outputs,
            }
            made = torch.onnx.export(
                program_of(program), dynamo=True, opset_version=_OPSET, verbose=False, **words
            )
        assert made is not None
        made.model.metadata_props[KEY] = json.dumps(about, ensure_ascii=False)
        made.save(str(path), external_data=False)

    def open(self, path: Path) -> LoadedProgram:
        """Tensors that lie in other files are refused, wherever these are: reading them has been a way out of the folder
        (CVE-2022-25882, CVE-2024-27318), and our files hold everything themselves."""
        need("export", "onnxruntime")
        import onnxruntime

        content = path.read_bytes()
        if _OUTSIDE in content:
            hint = "foveate export RUN makes one that does not"
            raise WeightsError("this file keeps tensors in other files", where=path, hint=hint)
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, threads()
        try:
            session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors share no parent but Exception
            why = str(error).splitlines()[0][:200]
            raise WeightsError(
                "this file cannot be opened", where=path, why=why, hint="foveate export RUN"
            ) from None
        text = session.get_modelmeta().custom_metadata_map.get(KEY)
        if text is None:
            raise UsageError(
                "this file was not made by foveate export", where=path, hint="foveate export RUN"
            )
        names = [output.name for output in session.get_outputs()]

        def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return dict(zip(names, session.run(names, inputs), strict=True))

        return LoadedProgram(json.loads(text), run)

    def quantize(
        self, path: Path, batches: Iterator[np.ndarray], about: dict[str, Any], into: Path
    ) -> None:
        """Static quantisation (Jacob et al. 2018): QDQ, weights by channel. What costs little time stays as it is, for 256 steps of
        chances or of coordinates cost answers: what comes after the last product, and where pooled features are an output, the
        head that reads them."""
        need("export", "onnx", "onnxruntime")
        import logging

        import onnx
        from onnxruntime.quantization import (
            CalibrationDataReader,
            QuantFormat,
            QuantType,
            quantize_static,
        )
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def get_next(self) -> dict[str, np.ndarray] | None:
                found = next(batches, None)
                return None if found is None else {"images": found}

        ready = into.with_suffix(".ready.onnx")
        level = logging.getLogger().level
        try:
            logging.getLogger().setLevel(logging.ERROR)  # it warns of what was done before
            quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
            kinds = {
                "activation_type": QuantType.QUInt8,
                "weight_type": QuantType.QInt8,
                "quant_format": QuantFormat.QDQ,
            }
            graph = onnx.load(str(ready)).graph
            kept = sorted(_tails(graph) | _heads(graph))
            quantize_static(
                str(ready), str(into), Reader(), per_channel=True, nodes_to_exclude=kept, **kinds
            )
        finally:
            logging.getLogger().setLevel(level)
            ready.unlink(missing_ok=True)
        model = onnx.load(str(into), load_external_data=False)
        others = [entry for entry in model.metadata_props if entry.key != KEY]
        del model.metadata_props[:]
        model.metadata_props.extend(others)
        onnx.helper.set_model_props(model, {KEY: json.dumps(about, ensure_ascii=False)})
        onnx.save(model, str(into))


def _heads(graph: Any) -> set[str]:
    """Names of the nodes that are behind the pooled features, where these are an output."""
    others = [output.name for output in graph.output if output.name != _POOLED]
    if len(others) == len(graph.output):
        return set()
    return {node.name for node in graph.node} - _before(graph, [_POOLED]) if others else set()


def _tails(graph: Any) -> set[str]:
    """Names of the nodes that no product comes after."""
    products = [node for node in graph.node if node.op_type in _PRODUCTS]
    inputs = [name for node in products for name in node.input]
    return {node.name for node in graph.node if node not in products} - _before(graph, inputs)


def _before(graph: Any, wanted: list[str]) -> set[str]:
    """Names of the nodes that lead to these values."""
    makers = {output: node for node in graph.node for output in node.output}
    left, found = list(wanted), set[str]()
    while left:
        node = makers.get(left.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            left += node.input
    return found
