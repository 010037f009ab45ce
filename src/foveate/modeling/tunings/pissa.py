"""LoRA initialized with the principal singular vectors of each weight (PiSSA, Meng et al. 2024).

In the paper the weight W loses its r largest singular directions B0 A0 to the update: W - B0 A0 + B
A. Here W stays and the update is B A - B0 A0: the same function and gradients, and the frozen
weights are still those of the backbone.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from foveate.modeling.tunings import Adaptable, Tuning, TuningSettings
from foveate.modeling.tunings._layers import active_layers, is_linear_or_conv

_ITERATIONS = 4  # of the randomized SVD (Halko et al. 2011), as in the paper's fast version


class PissaSettings(TuningSettings):
    rank: int = Field(
        8,
        ge=1,
        description="trained singular directions per weight, fewer in narrow layers",
    )


class _Principal(nn.Module):
    """Adds B A - B0 A0 to a weight (O, I) or (O, I, h, w).

    `start_a`, `start_b`: A0 and B0. They are saved, because a decomposition computed again on
    another machine need not have the same signs.
    """

    start_a: Tensor
    start_b: Tensor

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        flat = weight.detach().flatten(1)
        u, s, v = torch.svd_lowrank(flat, min(rank, *flat.shape), niter=_ITERATIONS)
        b, a = u * s.sqrt(), (v * s.sqrt()).T
        self.a, self.b = nn.Parameter(a.contiguous().clone()), nn.Parameter(b.contiguous().clone())
        self.register_buffer("start_a", a.contiguous().clone())
        self.register_buffer("start_b", b.contiguous().clone())

    def forward(self, frozen: Tensor) -> Tensor:
        return frozen + (self.b @ self.a - self.start_b @ self.start_a).view_as(frozen)


class Pissa(Tuning):
    layerwise: ClassVar[bool] = False
    trains_norms: ClassVar[bool] = False
    default_overrides: ClassVar[dict[str, Any]] = {"training.lr": 3e-3}
    Settings: ClassVar[type[TuningSettings]] = PissaSettings
    settings: PissaSettings

    def apply(self, model: Adaptable) -> None:
        names = active_layers(
            model.backbone, is_linear_or_conv, "linear layer and no ungrouped convolution"
        )
        model.backbone.requires_grad_(False)
        for name in names:
            layer = model.backbone.get_submodule(name)
            weight: Tensor = layer.weight  # type: ignore[assignment]
            parametrize.register_parametrization(
                layer, "weight", _Principal(weight, self.settings.rank)
            )
        model.head.requires_grad_(True)

    def merge(self, model: Adaptable) -> None:
        for module in model.backbone.modules():
            if hasattr(module, "parametrizations"):
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
