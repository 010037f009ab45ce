"""Train the scales and shifts of normalization layers, and the head (Frankle et al. 2021; Basu et
al. 2024).
"""

from __future__ import annotations

from typing import Any, ClassVar

from foveate.errors import UsageError
from foveate.modeling.tunings import Adaptable, Tuning
from foveate.modeling.tunings._layers import is_norm


class Norm(Tuning):
    layerwise: ClassVar[bool] = False
    search_rank: ClassVar[float | None] = 3
    default_overrides: ClassVar[dict[str, Any]] = {"training.lr": 1e-2}

    def apply(self, model: Adaptable) -> None:
        layers = [module for module in model.backbone.modules() if is_norm(module)]
        if not layers:
            raise UsageError(
                "this backbone has no normalization layer with learned scales",
                where="tuning",
                hint="--tuning bias",
            )
        model.backbone.requires_grad_(False)
        for layer in layers:
            for value in layer.parameters(recurse=False):
                value.requires_grad_(True)
        model.head.requires_grad_(True)
