"""Trains the first block of the backbone and the head: for images whose colors or texture differ
from photographs, while the objects are the same."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from foveate.modeling.tunings import Adaptable, Tuning, TuningSettings


class StemSettings(TuningSettings):
    blocks: int = Field(1, ge=1, description="trainable blocks, counted from the input")


class Stem(Tuning):
    layerwise: ClassVar[bool] = False  # one learning rate for all trainable weights
    default_overrides: ClassVar[dict[str, Any]] = {
        "training.lr": 3e-4
    }  # unless the user sets another
    Settings: ClassVar[type[TuningSettings]] = StemSettings

    def apply(self, model: Adaptable) -> None:
        model.backbone.requires_grad_(False)
        for block in model.backbone.blocks()[: self.settings.blocks]:
            block.requires_grad_(True)
        model.head.requires_grad_(True)
