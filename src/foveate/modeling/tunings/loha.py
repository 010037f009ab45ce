"""Hadamard product of two low-rank updates (LoHa; Hyeon-Woo et al. 2022, Yeh et al. 2024)."""

from __future__ import annotations

from typing import Any, ClassVar

from peft import LoHaConfig
from pydantic import Field
from torch import nn

from foveate.modeling.tunings import Adaptable, TuningSettings
from foveate.modeling.tunings._layers import is_linear_or_any_conv
from foveate.modeling.tunings._peft import PeftTuning


class LohaSettings(TuningSettings):
    rank: int = Field(4, ge=1, description="rank of both factors; their product reaches its square")
    alpha: float = Field(8.0, gt=0, description="the update is scaled by alpha / rank")


class Loha(PeftTuning):
    layer_kind: ClassVar[str] = "linear layer and no convolution"
    Settings: ClassVar[type[TuningSettings]] = LohaSettings
    default_overrides: ClassVar[dict[str, Any]] = {"training.lr": 3e-3}
    settings: LohaSettings

    @staticmethod
    def supports(module: nn.Module) -> bool:
        return is_linear_or_any_conv(module)

    def config(self, model: Adaptable, targets: list[str]) -> Any:
        alpha: Any = self.settings.alpha
        return LoHaConfig(
            r=self.settings.rank, alpha=alpha, use_effective_conv2d=True, target_modules=targets
        )
