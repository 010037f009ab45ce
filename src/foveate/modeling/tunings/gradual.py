"""Gradual unfreezing: the head first, then block after block (Howard & Ruder 2018)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from foveate.modeling.tunings import Adaptable, Tuning, TuningSettings


class GradualSettings(TuningSettings):
    share: float = Field(
        0.5, gt=0, le=1, description="share of the epochs after which all blocks are trained"
    )


class Gradual(Tuning):
    Settings: ClassVar[type[TuningSettings]] = GradualSettings
    settings: GradualSettings

    def apply(self, model: Adaptable) -> None:
        model.backbone.requires_grad_(True)
        model.head.requires_grad_(True)

    def begin_epoch(self, model: Adaptable, epoch: int, epochs: int) -> None:
        """Unfreeze blocks evenly: none in the first epoch, all after `share` of the epochs."""
        blocks = model.backbone.blocks()
        open_ = min(1.0, epoch / max(1, round(self.settings.share * epochs)))
        count = round(open_ * len(blocks))
        model.backbone.requires_grad_(count == len(blocks))
        for block in blocks[len(blocks) - count :]:
            block.requires_grad_(True)
