"""Train only the head, by gradient steps; the backbone is frozen."""

from __future__ import annotations

from typing import ClassVar

from foveate.modeling.tunings import Adaptable, Tuning


class Head(Tuning):
    search_rank: ClassVar[float | None] = 1.5
    layerwise: ClassVar[bool] = False
    trains_backbone: ClassVar[bool] = False
    trains_norms: ClassVar[bool] = False

    def apply(self, model: Adaptable) -> None:
        model.backbone.requires_grad_(False)
        model.head.requires_grad_(True)
