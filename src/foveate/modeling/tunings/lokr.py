"""Kronecker product of a small and a low-rank matrix as the update (LoKr, Yeh et al. 2024)."""

from __future__ import annotations

from typing import Any, ClassVar

from peft import LoKrConfig
from pydantic import Field
from torch import nn

from foveate.modeling.tunings import Adaptable, TuningSettings
from foveate.modeling.tunings._layers import is_linear_or_any_conv
from foveate.modeling.tunings._peft import PeftTuning


class LokrSettings(TuningSettings):
    rank: int = Field(8, ge=1, description="rank of the second factor")
    alpha: float = Field(16.0, gt=0, description="the update is scaled by alpha / rank")


class Lokr(PeftTuning):
    layer_kind: ClassVar[str] = "linear layer and no convolution"
    Settings: ClassVar[type[TuningSettings]] = LokrSettings
    default_overrides: ClassVar[dict[str, Any]] = {"training.lr": 3e-3}
    settings: LokrSettings

    @staticmethod
    def supports(module: nn.Module) -> bool:
        return is_linear_or_any_conv(module)

    def config(self, model: Adaptable, targets: list[str]) -> Any:
        alpha: Any = self.settings.alpha
        return LoKrConfig(
            r=self.settings.rank, alpha=alpha, use_effective_conv2d=True, target_modules=targets
        )
