"""Weights as safetensors, by the names of the library that the network comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from foveate.deploy.targets import METADATA_KEY, WeightsExporter

if TYPE_CHECKING:
    from torch import Tensor

_WRAPPED = "backbone.network."  # before the names of a library's network that Foveate wraps
_UNWRAPPED = "backbone."  # before the same names in the file


class Torch(WeightsExporter):
    """Writes `backbone.*` and `head.*`, with adapters merged, and `mean` and `std` of the input."""

    summary: ClassVar[str] = "safetensors weights with adapters merged, for torch programs"
    suffix: ClassVar[str] = ".safetensors"

    def write_tensors(
        self, tensors: dict[str, Tensor], metadata: dict[str, Any], path: Path
    ) -> None:
        from safetensors.torch import save_file

        renamed = {
            name.replace(_WRAPPED, _UNWRAPPED, 1): tensor.contiguous().clone()
            for name, tensor in tensors.items()
        }
        save_file(renamed, path, metadata={METADATA_KEY: json.dumps(metadata, ensure_ascii=False)})
