"""Train the last blocks and the head; everything before them is frozen."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from foveate.errors import UsageError
from foveate.messages import counted
from foveate.modeling.tunings import Adaptable, Tuning, TuningSettings


class LastSettings(TuningSettings):
    blocks: int = Field(
        2, ge=1, description="blocks, counted from the output, that are trained with the head"
    )


class Last(Tuning):
    search_rank: ClassVar[float | None] = 2
    Settings: ClassVar[type[TuningSettings]] = LastSettings
    settings: LastSettings

    def apply(self, model: Adaptable) -> None:
        blocks = model.backbone.blocks()
        if self.settings.blocks > len(blocks):
            raise UsageError(
                f"the backbone does not have {self.settings.blocks} blocks",
                why=f"it has {counted(len(blocks), 'block', 'blocks')}",
                where="tuning.blocks",
                hint="--tuning full",
            )
        model.backbone.requires_grad_(False)
        for block in blocks[-self.settings.blocks :]:
            block.requires_grad_(True)
        model.head.requires_grad_(True)
