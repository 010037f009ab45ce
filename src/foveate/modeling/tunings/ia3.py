"""A learnt factor for every output of a frozen layer (IA3, Liu et al. 2022), here of linear layers and convolutions."""

from __future__ import annotations

from typing import Any, ClassVar

from peft import IA3Config
from torch import nn

from foveate.modeling.tunings import Adaptable
from foveate.modeling.tunings._layers import is_any
from foveate.modeling.tunings._peft import PeftTuning


class Ia3(PeftTuning):
    lacks: ClassVar[str] = "linear layer and no convolution"
    default_overrides: ClassVar[dict[str, Any]] = {"training.lr": 3e-3}

    @staticmethod
    def fits(module: nn.Module) -> bool:
        return is_any(module)

    def config(self, model: Adaptable, targets: list[str]) -> Any:
        return IA3Config(target_modules=targets, feedforward_modules=[])
