"""OpenVINO files: the network in an .xml file, its weights beside it in a .bin file."""

from __future__ import annotations

import json
import math
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from foveate.deploy.targets import (
    MAX_ELEMENTS,
    METADATA_KEY,
    ExportProgram,
    LoadedProgram,
    RuntimeExporter,
    foreign_file,
    num_threads,
    parse_metadata,
    trace,
)
from foveate.errors import UsageError, WeightsError, require_packages
from foveate.utils.files import write_error

if TYPE_CHECKING:
    import numpy as np

_CONTROL_FLOW = ("Loop", "TensorIterator", "If")
_HINT = "foveate export RUN --to openvino"


class OpenVino(RuntimeExporter):
    """Writes and opens OpenVINO files, in float32."""

    summary: ClassVar[str] = "OpenVINO, for processors by Intel and others"
    suffix: ClassVar[str] = ".xml"

    def write(self, program: ExportProgram, metadata: dict[str, Any], path: Path) -> None:
        require_packages("export", "openvino")
        import openvino

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about internals of the converter
            model = openvino.convert_model(trace(program))
        for ports, names in ((model.inputs, program.example), (model.outputs, program.outputs)):
            for port, name in zip(ports, names, strict=True):
                port.get_tensor().set_names({name})
        model.set_rt_info(json.dumps(metadata, ensure_ascii=False), METADATA_KEY)
        try:
            openvino.save_model(model, path, compress_to_fp16=False)
        except RuntimeError as error:  # a full disk is "iostream error"
            raise write_error(path, error) from None

    def open(self, path: Path) -> LoadedProgram:
        require_packages("export", "openvino")
        core = _core()
        config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": num_threads()}
        try:
            model = core.read_model(path)
            _refuse_costly(model, path)
            compiled = core.compile_model(model, "CPU", config)
        except RuntimeError as error:
            why = str(error).strip().splitlines()[-1][:200]
            raise WeightsError(
                "OpenVINO cannot open this file", where=path, why=why, hint=_HINT
            ) from None
        if not model.has_rt_info(METADATA_KEY):
            raise UsageError("foveate export did not write this file", where=path, hint=_HINT)
        names = [output.get_any_name() for output in model.outputs]

        def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            outputs = compiled(inputs)
            return {name: outputs[index] for index, name in enumerate(names)}

        text = str(model.get_rt_info(METADATA_KEY).astype(str))
        return LoadedProgram(parse_metadata(text, path), run)


def _refuse_costly(model: Any, path: Path) -> None:
    """Refuse loops, branches, and tensors of more than MAX_ELEMENTS for an image.

    Reading a file computes the shapes and nothing else.
    """
    for operator in model.get_ops():
        kind = operator.get_type_name()
        why = "it has loops or branches" if kind in _CONTROL_FLOW else None
        for output in operator.outputs():
            shape = output.get_partial_shape()
            lengths = shape if shape.rank.is_static else ()
            elements = math.prod(each.get_length() for each in lengths if each.is_static)
            if elements > MAX_ELEMENTS:
                why = f"{kind} makes a tensor of {elements:,} elements"
        if why:
            raise foreign_file(path, why)


@cache
def _core() -> Any:
    """The one instance of a process, which is never destroyed.

    Its CPU plugin gives the thread that compiles first an alternate stack for signals, and unmaps
    it in whichever thread the last reference is dropped. The next signal with a handler, such as
    SIGCHLD or SIGTERM, would then end the process with a segmentation fault.
    """
    import openvino

    return openvino.Core()
