"""Weights as a NumPy archive: foveate export RUN --to npz."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from foveate.deploy.targets import WeightsExporter

if TYPE_CHECKING:
    from torch import Tensor


class Npz(WeightsExporter):
    summary: ClassVar[str] = "weights as a NumPy archive"
    suffix: ClassVar[str] = ".npz"

    def write_tensors(self, tensors: dict[str, Tensor], about: dict[str, Any], path: Path) -> None:
        arrays = {name: tensor.float().cpu().numpy() for name, tensor in tensors.items()}
        np.savez(path, foveate=np.array(json.dumps(about)), **arrays)
