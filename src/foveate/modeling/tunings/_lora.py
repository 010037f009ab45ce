"""Base class of LoRA and its variants."""

from __future__ import annotations

from typing import Any, ClassVar

from peft import LoraConfig
from pydantic import Field

from foveate.modeling.tunings import Adaptable, TuningSettings
from foveate.modeling.tunings._peft import PeftTuning


class LoraSettings(TuningSettings):
    rank: int = Field(8, ge=1, description="rank of each update")
    alpha: float = Field(16.0, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before each update")


class LoraTuning(PeftTuning):
    """Low-rank updates of linear layers and ungrouped convolutions.

    Depthwise convolutions are left out: a rank cannot be divided among their groups.

    Attributes:
        peft_options: Arguments of peft's LoraConfig that select the variant.
    """

    Settings: ClassVar[type[TuningSettings]] = LoraSettings
    peft_options: ClassVar[dict[str, Any]] = {}
    settings: LoraSettings

    def config(self, model: Adaptable, targets: list[str]) -> Any:
        own = self.settings
        alpha: Any = own.alpha  # annotated as int in peft, but any number works
        return LoraConfig(
            r=own.rank,
            lora_alpha=alpha,
            lora_dropout=own.dropout,
            target_modules=targets,
            **self.peft_options,
        )
