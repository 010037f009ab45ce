"""Train all parameters, with lower rates near the input where training.layer_decay is below 1."""

from __future__ import annotations

from typing import ClassVar

from foveate.modeling.tunings import Adaptable, Tuning


class Full(Tuning):
    search_rank: ClassVar[float | None] = 5

    def apply(self, model: Adaptable) -> None:
        model.backbone.requires_grad_(True)
        model.head.requires_grad_(True)
