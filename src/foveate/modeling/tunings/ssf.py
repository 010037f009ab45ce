"""A factor and a shift for every channel after every layer (SSF, Lian et al. 2022); both fold into the layer.

y = g * (W x + b) + s is a layer with the weight g W and the bias g b + s, and so it is trained: as parametrisations of the
frozen weight and bias. Normalisations keep their statistics.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from foveate.modeling.tunings import Adaptable, Tuning
from foveate.modeling.tunings._layers import called, is_any, is_norm


class _Scaled(nn.Module):
    """(C, ...) -> the same, each of the C rows times its factor."""

    def __init__(self, factor: nn.Parameter) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, frozen: Tensor) -> Tensor:
        return frozen * self.factor.view(-1, *[1] * (frozen.ndim - 1))


class _Shifted(nn.Module):
    """(C,) -> (C,): times the factors, which belong to the weight's parametrisation, plus a shift."""

    factor: nn.Parameter

    def __init__(self, factor: nn.Parameter, shift: nn.Parameter) -> None:
        super().__init__()
        self.shift = shift
        object.__setattr__(self, "factor", factor)

    def forward(self, frozen: Tensor) -> Tensor:
        return frozen * self.factor + self.shift


class Ssf(Tuning):
    layerwise: ClassVar[bool] = False
    default_overrides: ClassVar[dict[str, Any]] = {"training.lr": 3e-3}

    def apply(self, model: Adaptable) -> None:
        names = called(
            model.backbone,
            lambda module: is_any(module) or is_norm(module),
            "layer that could be scaled",
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
    """Both start as if they were not there: factors at 1, shifts at 0. A layer without a bias gets no shift: the normalisation
    after it has one."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    factor = nn.Parameter(torch.ones(len(weight)))
    parametrize.register_parametrization(layer, "weight", _Scaled(factor))
    if getattr(layer, "bias", None) is not None:
        parametrize.register_parametrization(
            layer, "bias", _Shifted(factor, nn.Parameter(torch.zeros(len(weight))))
        )
