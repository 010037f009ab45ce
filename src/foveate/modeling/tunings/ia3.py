"""A learned scale for every output channel of frozen layers (IA3, Liu et al. 2022)."""

from __future__ import annotations

from typing import Any, ClassVar

from peft import IA3Config
from torch import nn

from foveate.modeling.tunings import Adaptable
from foveate.modeling.tunings._layers import is_linear_or_any_conv
from foveate.modeling.tunings._peft import PeftTuning


class Ia3(PeftTuning):
    layer_kind: ClassVar[str] = "linear layer and no convolution"
    default_overrides: ClassVar[dict[str, Any]] = {"training.lr": 3e-3}

    @staticmethod
    def supports(module: nn.Module) -> bool:
        return is_linear_or_any_conv(module)

    def config(self, model: Adaptable, targets: list[str]) -> Any:
        return IA3Config(target_modules=targets, feedforward_modules=[])
