"""Weights alone, by the names that they have in the library that they come from: safetensors, for other programs in torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from foveate.deploy.targets import KEY, Weights

if TYPE_CHECKING:
    from torch import Tensor

_WRAPPED, _BARE = (
    "backbone.network.",
    "backbone.",
)  # as Foveate holds a library's network, and as the file has it


class Torch(Weights):
    """`backbone.*` and `head.*`, with added weights merged, and the `mean` and `std` that pictures are normalised by."""

    summary: ClassVar[str] = "weights as safetensors, merged, for other programs in torch"
    suffix: ClassVar[str] = ".safetensors"

    def write_tensors(self, tensors: dict[str, Tensor], about: dict[str, Any], path: Path) -> None:
        from safetensors.torch import save_file

        named = {
            name.replace(_WRAPPED, _BARE, 1): tensor.contiguous().clone()
            for name, tensor in tensors.items()
        }
        save_file(named, path, metadata={KEY: json.dumps(about, ensure_ascii=False)})
