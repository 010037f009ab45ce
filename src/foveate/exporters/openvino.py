"""OpenVINO files: a model in .xml, its weights beside it in .bin."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from foveate.errors import UsageError, WeightsError, need
from foveate.exporters import KEY, Exporter, Opened, program_of

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


class OpenVino(Exporter):
    summary: ClassVar[str] = "OpenVINO, for Intel's and other processors"
    suffix: ClassVar[str] = ".xml"

    def write(self, graph: nn.Module, names: list[str], side: int, about: dict[str, Any], path: Path) -> None:
        need("export", "openvino")
        import openvino

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the converter's own insides
            model = openvino.convert_model(program_of(graph, side))
        for output, name in zip(model.outputs, names, strict=True):
            output.get_tensor().set_names({name})
        model.set_rt_info(json.dumps(about, ensure_ascii=False), KEY)
        openvino.save_model(model, path, compress_to_fp16=False)

    def open(self, path: Path) -> Opened:
        need("export", "openvino")
        import openvino

        core = openvino.Core()
        try:
            model = core.read_model(path)
            compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as error:
            why = str(error).strip().splitlines()[-1][:200]
            raise WeightsError("this file cannot be opened", where=path, why=why, hint="foveate export RUN --to openvino") from None
        if not model.has_rt_info(KEY):
            raise UsageError("this file was not made by foveate export", where=path, hint="foveate export RUN --to openvino")
        names = [output.get_any_name() for output in model.outputs]

        def run(images: np.ndarray) -> dict[str, np.ndarray]:
            found = compiled(images)
            return {name: found[place] for place, name in enumerate(names)}

        return Opened(json.loads(str(model.get_rt_info(KEY).astype(str))), run)
