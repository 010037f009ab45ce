"""Scale and shift the output channels of every layer (SSF, Lian et al. 2022); both can be merged.

y = g * (W x + b) + s is a layer with weight g W and bias g b + s, and is trained as
parametrizations of the frozen weight and bias. Normalization layers keep their statistics.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from foveate.modeling.tunings import Adaptable, Tuning
from foveate.modeling.tunings._layers import active_layers, is_linear_or_any_conv, is_norm


class _Scaled(nn.Module):
    """Multiplies each of the C rows of a weight (C, ...) by its factor."""

    def __init__(self, factor: nn.Parameter) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, frozen: Tensor) -> Tensor:
        return frozen * self.factor.view(-1, *[1] * (frozen.ndim - 1))


class _Shifted(nn.Module):
    """Scales and shifts a bias (C,); the factors belong to the parametrization of the weight."""

    factor: nn.Parameter

    def __init__(self, factor: nn.Parameter, shift: nn.Parameter) -> None:
        super().__init__()
        self.shift = shift
        object.__setattr__(self, "factor", factor)

    def forward(self, frozen: Tensor) -> Tensor:
        return frozen * self.factor + self.shift


class Ssf(Tuning):
    layerwise: ClassVar[bool] = False
    trains_norms: ClassVar[bool] = False
    default_overrides: ClassVar[dict[str, Any]] = {"training.lr": 3e-3}

    def apply(self, model: Adaptable) -> None:
        names = active_layers(
            model.backbone,
            lambda module: is_linear_or_any_conv(module) or is_norm(module),
            "layer that can be scaled",
        )
        model.backbone.requires_grad_(False)
        for name in names:
            _scale(model.backbone.get_submodule(name))
        model.head.requires_grad_(True)

    def merge(self, model: Adaptable) -> None:
        for module in model.backbone.modules():
            for name in list(getattr(module, "parametrizations", {})):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)


def _scale(layer: nn.Module) -> None:
    """Add factors of 1 and shifts of 0.

    A layer without a bias gets no shift: the normalization after it has one.
    """
    weight: Tensor = layer.weight  # type: ignore[assignment]
    factor = nn.Parameter(torch.ones(len(weight)))
    parametrize.register_parametrization(layer, "weight", _Scaled(factor))
    if getattr(layer, "bias", None) is not None:
        parametrize.register_parametrization(
            layer, "bias", _Shifted(factor, nn.Parameter(torch.zeros(len(weight))))
        )
