"""Shared random matrices with two learned vectors per layer (VeRA, Kopiczko et al. 2024)."""

from __future__ import annotations

from typing import Any, ClassVar

from peft import VeraConfig
from pydantic import Field
from torch import nn

from foveate.modeling.tunings import Adaptable, TuningSettings
from foveate.modeling.tunings._layers import is_linear
from foveate.modeling.tunings._peft import PeftTuning


class VeraSettings(TuningSettings):
    rank: int = Field(256, ge=1, description="width of the shared random matrices")


class Vera(PeftTuning):
    layer_kind: ClassVar[str] = "linear layer"
    Settings: ClassVar[type[TuningSettings]] = VeraSettings
    settings: VeraSettings

    @staticmethod
    def supports(module: nn.Module) -> bool:
        return is_linear(module)

    def config(self, model: Adaptable, targets: list[str]) -> Any:
        return VeraConfig(r=self.settings.rank, target_modules=targets)
