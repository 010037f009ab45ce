"""Low-rank updates beside frozen weights (LoRA, Hu et al. 2021), on linear layers and on convolutions."""

from __future__ import annotations

import warnings
from typing import ClassVar

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from pydantic import Field
from torch import nn

from foveate.errors import UsageError
from foveate.tunings import Adaptable, Tuning, TuningSettings


class LoraSettings(TuningSettings):
    rank: int = Field(8, ge=1, description="rank of each update")
    alpha: float = Field(16.0, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before each update")


class Lora(Tuning):
    layerwise: ClassVar[bool] = False
    Settings: ClassVar[type[TuningSettings]] = LoraSettings
    settings: LoraSettings

    def apply(self, model: Adaptable) -> None:
        """Updates stand beside every linear layer and every ungrouped convolution: a rank cannot be shared out to the groups
        of a depthwise one."""
        targets = [name for name, module in model.backbone.named_modules() if _takes_update(module)]
        if not targets:
            raise UsageError("this backbone has no linear layer and no plain convolution", where="tuning", hint="--tuning full")
        config = LoraConfig(
            r=self.settings.rank,
            lora_alpha=self.settings.alpha,  # type: ignore[arg-type]
            lora_dropout=self.settings.dropout,
            target_modules=targets,
        )
        model.backbone.requires_grad_(False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns about layer types that were left out on purpose
            inject_adapter_in_model(config, model.backbone)
        model.head.requires_grad_(True)

    def merge(self, model: Adaptable) -> None:
        for parent in list(model.backbone.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, LoraLayer):
                    child.merge(safe_merge=True)
                    setattr(parent, name, child.get_base_layer())


def _takes_update(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
