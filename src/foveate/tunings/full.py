"""Every weight moves, those near the input slower where training.layer_decay is below 1."""

from __future__ import annotations

from foveate.tunings import Adaptable, Tuning


class Full(Tuning):
    def apply(self, model: Adaptable) -> None:
        model.backbone.requires_grad_(True)
        model.head.requires_grad_(True)
