"""LoRA that starts from the principal directions of each weight (PiSSA, Meng et al. 2024), on linear layers and convolutions.

In the paper the weight W loses its r greatest singular directions B0 A0 to the update, W - B0 A0 + B A. Here W stays as it is and
the update is B A - B0 A0: the same function, the same gradients, and frozen weights that are still the backbone's own.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from foveate.modeling.tunings import Adaptable, Tuning, TuningSettings
from foveate.modeling.tunings._layers import called, is_plain

_ITERATIONS = 4  # of the randomised singular value decomposition (Halko et al. 2011), as in the paper's fast version


class PissaSettings(TuningSettings):
    rank: int = Field(
        8,
        ge=1,
        description="how many singular directions of each weight are trained (fewer in narrow layers)",
    )


class _Principal(nn.Module):
    """(O, I) or (O, I, h, w) -> the same, plus what its principal directions have moved.

    `start_a`, `start_b`: where they began. They are kept beside the trained ones, because a decomposition that is computed
    again elsewhere need not give the same signs.
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
    default_overrides: ClassVar[dict[str, Any]] = {"training.lr": 3e-3}
    Settings: ClassVar[type[TuningSettings]] = PissaSettings
    settings: PissaSettings

    def apply(self, model: Adaptable) -> None:
        names = called(model.backbone, is_plain, "linear layer and no ungrouped convolution")
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
