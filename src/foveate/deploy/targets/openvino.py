"""OpenVINO files: a model in .xml, its weights beside it in .bin."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from foveate.deploy.targets import KEY, ExportProgram, LoadedProgram, Runtime, program_of, threads
from foveate.errors import UsageError, WeightsError, need

if TYPE_CHECKING:
    import numpy as np


class OpenVino(Runtime):
    summary: ClassVar[str] = "OpenVINO, for Intel's and other processors"
    suffix: ClassVar[str] = ".xml"

    def write(self, program: ExportProgram, about: dict[str, Any], path: Path) -> None:
        need("export", "openvino")
        import openvino

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the converter's own insides
            model = openvino.convert_model(program_of(program))
        for ports, names in ((model.inputs, program.example), (model.outputs, program.outputs)):
            for port, name in zip(ports, names, strict=True):
                port.get_tensor().set_names({name})
        model.set_rt_info(json.dumps(about, ensure_ascii=False), KEY)
        openvino.save_model(model, path, compress_to_fp16=False)

    def open(self, path: Path) -> LoadedProgram:
        need("export", "openvino")
        import openvino

        core = openvino.Core()
        try:
            model = core.read_model(path)
            wanted = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads()}
            compiled = core.compile_model(model, "CPU", wanted)
        except RuntimeError as error:
            why = str(error).strip().splitlines()[-1][:200]
            raise WeightsError(
                "this file cannot be opened",
                where=path,
                why=why,
                hint="foveate export RUN --to openvino",
            ) from None
        if not model.has_rt_info(KEY):
            raise UsageError(
                "this file was not made by foveate export",
                where=path,
                hint="foveate export RUN --to openvino",
            )
        names = [output.get_any_name() for output in model.outputs]

        def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            found = compiled(inputs)
            return {name: found[place] for place, name in enumerate(names)}

        return LoadedProgram(json.loads(str(model.get_rt_info(KEY).astype(str))), run)
