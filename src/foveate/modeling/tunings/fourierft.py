"""Updates of linear layers with a few Fourier coefficients (FourierFT, Gao et al. 2024)."""

from __future__ import annotations

from typing import Any, ClassVar

from peft import FourierFTConfig
from pydantic import Field
from torch import nn

from foveate.modeling.tunings import Adaptable, TuningSettings
from foveate.modeling.tunings._layers import is_linear
from foveate.modeling.tunings._peft import PeftTuning


class FourierSettings(TuningSettings):
    frequencies: int = Field(
        1000, ge=1, description="coefficients per layer, fewer for small layers"
    )
    scaling: float = Field(150.0, gt=0, description="scale of the update")


class FourierFt(PeftTuning):
    layer_kind: ClassVar[str] = "linear layer"
    Settings: ClassVar[type[TuningSettings]] = FourierSettings
    settings: FourierSettings

    @staticmethod
    def supports(module: nn.Module) -> bool:
        return is_linear(module)

    def config(self, model: Adaptable, targets: list[str]) -> Any:
        sizes = {
            name: max(value.numel() for value in model.backbone.get_submodule(name).parameters())
            for name in targets
        }
        few = {name: size for name, size in sizes.items() if size < self.settings.frequencies}
        return FourierFTConfig(
            n_frequency=self.settings.frequencies,
            scaling=self.settings.scaling,
            n_frequency_pattern=few,
            init_weights=True,  # at 0, so that the fitted head still fits the features
            target_modules=targets,
        )
