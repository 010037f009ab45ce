"""ONNX files, answered by ONNX Runtime."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from foveate.errors import UsageError, WeightsError, need
from foveate.exporters import KEY, Opened, Program, SmallRuntime, program_of

if TYPE_CHECKING:
    import numpy as np

_OPSET = 20
_OUTSIDE = b"\n\x08location"  # the key of a tensor that lies in another file, as the format writes it


class Onnx(SmallRuntime):
    summary: ClassVar[str] = "ONNX, for ONNX Runtime and many others"
    suffix: ClassVar[str] = ".onnx"

    def write(self, program: Program, about: dict[str, Any], path: Path) -> None:
        need("export", "onnx", "onnxscript")
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own insides
            words: dict[str, Any] = {"input_names": list(program.example), "output_names": program.outputs}
            made = torch.onnx.export(program_of(program), dynamo=True, opset_version=_OPSET, verbose=False, **words)
        assert made is not None
        made.model.metadata_props[KEY] = json.dumps(about, ensure_ascii=False)
        made.save(str(path), external_data=False)

    def open(self, path: Path) -> Opened:
        """Tensors that lie in other files are refused, wherever these are: reading them has been a way out of the folder
        (CVE-2022-25882, CVE-2024-27318), and our files hold everything themselves."""
        need("export", "onnxruntime")
        import onnxruntime

        content = path.read_bytes()
        if _OUTSIDE in content:
            hint = "foveate export RUN makes one that does not"
            raise WeightsError("this file keeps tensors in other files", where=path, hint=hint)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors share no parent but Exception
            why = str(error).splitlines()[0][:200]
            raise WeightsError("this file cannot be opened", where=path, why=why, hint="foveate export RUN") from None
        text = session.get_modelmeta().custom_metadata_map.get(KEY)
        if text is None:
            raise UsageError("this file was not made by foveate export", where=path, hint="foveate export RUN")
        names = [output.name for output in session.get_outputs()]

        def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return dict(zip(names, session.run(names, inputs), strict=True))

        return Opened(json.loads(text), run)

    def shrink(self, path: Path, batches: Iterator[np.ndarray], about: dict[str, Any], into: Path) -> None:
        """Static quantisation (Jacob et al. 2018): QDQ, weights by channel. What leads to the first output alone stays as it is: a
        head costs little time, and chances in 256 steps cost answers."""
        need("export", "onnx", "onnxruntime")
        import logging

        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
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
            kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "quant_format": QuantFormat.QDQ}
            kept = _heads(onnx.load(str(ready)))
            quantize_static(str(ready), str(into), Reader(), per_channel=True, nodes_to_exclude=kept, **kinds)
        finally:
            logging.getLogger().setLevel(level)
            ready.unlink(missing_ok=True)
        model = onnx.load(str(into), load_external_data=False)
        kept = [entry for entry in model.metadata_props if entry.key != KEY]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        onnx.helper.set_model_props(model, {KEY: json.dumps(about, ensure_ascii=False)})
        onnx.save(model, str(into))


def _heads(model: Any) -> list[str]:
    """Names of the nodes that only the first output needs."""
    makers = {output: node for node in model.graph.node for output in node.output}
    wanted, shared = [output.name for output in model.graph.output[1:]], set()
    while wanted:
        node = makers.get(wanted.pop())
        if node is not None and node.name not in shared:
            shared.add(node.name)
            wanted += node.input
    return [node.name for node in model.graph.node if node.name not in shared]
