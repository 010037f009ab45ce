"""A bottleneck beside the MLP of each Transformer block (AdaptFormer, Chen et al. 2022)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, cast

from pydantic import Field
from torch import Tensor, nn

from foveate.modeling.tunings import Adaptable, Tuning, TuningSettings
from foveate.modeling.tunings._layers import active_layers


class AdaptFormerSettings(TuningSettings):
    width: int = Field(64, ge=1, description="width of the bottleneck")
    scale: float = Field(0.1, gt=0, description="scale of the bottleneck's output")


class _BesideMlp(nn.Module):
    """MLP(x) + scale * up(relu(down(x))) for normalized x (..., D) (equations 2 and 3 of the
    paper).
    """

    def __init__(self, mlp: nn.Module, outer: int, settings: AdaptFormerSettings) -> None:
        super().__init__()
        self.mlp, self.scale = mlp, settings.scale
        self.down, self.up = nn.Linear(outer, settings.width), nn.Linear(settings.width, outer)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for parameter in (self.down.bias, self.up.weight, self.up.bias):  # starts as the identity
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, *more: Any, **named: Any) -> Tensor:
        beside: Tensor = self.up(self.down(x).relu())
        return cast(Tensor, self.mlp(x, *more, **named) + self.scale * beside)


class AdaptFormer(Tuning):
    layerwise: ClassVar[bool] = False
    trains_norms: ClassVar[bool] = False
    unmergeable: ClassVar[str] = (
        "the bottleneck is nonlinear and cannot be expressed as a change of weights"
    )
    Settings: ClassVar[type[TuningSettings]] = AdaptFormerSettings
    settings: AdaptFormerSettings

    def apply(self, model: Adaptable) -> None:
        names = active_layers(
            model.backbone,
            lambda module: _width(module) is not None,
            "MLP of a Transformer block",
            "--tuning lora",
        )
        model.backbone.requires_grad_(False)
        for name in names:
            parent, _, last = name.rpartition(".")
            mlp = model.backbone.get_submodule(name)
            setattr(
                model.backbone.get_submodule(parent),
                last,
                _BesideMlp(mlp, cast(int, _width(mlp)), self.settings),
            )
        model.head.requires_grad_(True)


def _width(module: nn.Module) -> int | None:
    """D of an MLP from (..., D) to (..., D); None for other modules."""
    first = getattr(module, "fc1", getattr(module, "fc1_g", None))
    last = getattr(module, "fc2", None)
    if (
        isinstance(first, nn.Linear)
        and isinstance(last, nn.Linear)
        and first.in_features == last.out_features
    ):
        return first.in_features
    return None
