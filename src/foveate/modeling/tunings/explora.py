"""LoRA on all blocks but the last, which are trained in full like all normalization layers.

Continues pretraining in a new domain with a tenth of the parameters (ExPLoRA, Khanna et al. 2025,
arXiv 2406.10973).
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from foveate.modeling.tunings import Adaptable, TuningSettings
from foveate.modeling.tunings._layers import active_layers, is_norm
from foveate.modeling.tunings._lora import LoraSettings, LoraTuning


class ExPLoRASettings(LoraSettings):
    rank: int = Field(32, ge=1, description="rank of each update")
    alpha: float = Field(64.0, gt=0, description="the update is scaled by alpha / rank")
    blocks: int = Field(
        1, ge=1, description="blocks, counted from the output, that are trained in full"
    )


class ExPLoRA(LoraTuning):
    trains_norms: ClassVar[bool] = True
    Settings: ClassVar[type[TuningSettings]] = ExPLoRASettings
    settings: Any

    def targets(self, model: Adaptable) -> list[str]:
        inside = {id(module) for block in self._whole(model) for module in block.modules()}
        return active_layers(
            model.backbone,
            lambda module: self.supports(module) and id(module) not in inside,
            self.layer_kind,
        )

    def apply(self, model: Adaptable) -> None:
        super().apply(model)
        for module in [
            *self._whole(model),
            *(module for module in model.backbone.modules() if is_norm(module)),
        ]:
            module.requires_grad_(True)

    def _whole(self, model: Adaptable) -> list[nn.Module]:
        return model.backbone.blocks()[-self.settings.blocks :]
