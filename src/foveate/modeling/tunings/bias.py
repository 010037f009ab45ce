"""Every bias of the backbone, and the head (BitFit, Ben Zaken et al. 2022)."""

from __future__ import annotations

from typing import Any, ClassVar

from foveate.errors import UsageError
from foveate.modeling.tunings import Adaptable, Tuning


class Bias(Tuning):
    layerwise: ClassVar[bool] = False
    search_rank: ClassVar[float | None] = 3.5
    default_overrides: ClassVar[dict[str, Any]] = {"training.lr": 1e-2}

    def apply(self, model: Adaptable) -> None:
        biases = [
            value
            for name, value in model.backbone.named_parameters()
            if name.rpartition(".")[2].endswith("bias")
        ]
        if not biases:
            raise UsageError(
                "this backbone has no bias parameters", where="tuning", hint="--tuning lora"
            )
        model.backbone.requires_grad_(False)
        for value in biases:
            value.requires_grad_(True)
        model.head.requires_grad_(True)
