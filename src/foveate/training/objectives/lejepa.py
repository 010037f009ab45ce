"""All views of an image predict their mean, while projections are held to a standard normal (LeJEPA, Balestriero & LeCun
2025, arXiv 2511.08544): no teacher, no stop of gradients, one weight.

The distribution is compared along random directions, where a characteristic function tells two distributions apart (the test of
Epps & Pulley 1983; SIGReg, definition 3 of the paper).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from foveate.modeling.backbones import Backbone
from foveate.training.objectives import ObjectiveSettings
from foveate.training.objectives._views import ContrastedViews, Projector
from foveate.types import Batch

_REACH, _KNOTS = (
    5.0,
    17,
)  # the characteristic functions are compared at so many points of [-reach, reach]


class LeJEPASettings(ObjectiveSettings):
    sigreg_weight: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="weight of the distribution, the rest is that of the prediction",
    )
    directions: int = Field(256, ge=1, description="random directions in a step")
    local_views: int = Field(2, ge=0, description="smaller views beside the two wide ones")
    hidden: int = Field(512, ge=1, description="width of the projector's middle layers")
    width: int = Field(64, ge=1, description="width of the projection")


class LeJEPA(ContrastedViews):
    default_overrides: ClassVar[dict[str, Any]] = {"training.batch_size": 128}
    Settings: ClassVar[type[LeJEPASettings]] = LeJEPASettings

    settings: LeJEPASettings

    def head(self, backbone: Backbone) -> nn.Module:
        return Projector(backbone.width, self.settings.hidden, self.settings.width)

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        projected, weight = output.float(), self.settings.sigreg_weight
        aim = projected[: self.num_global_views].mean(0)
        odd = torch.stack(
            [sigreg(each, self.settings.directions) for each in projected]
        ).mean()
        return {
            "prediction": (1 - weight) * (projected - aim).square().mean(),
            "regularity": weight * odd,
        }


def sigreg(features: Tensor, directions: int) -> Tensor:
    """(B, P) -> mean over random directions of the Epps-Pulley statistic: B times the squared distance of the empirical
    characteristic function from that of a standard normal, weighted by the latter. Drawn from torch's generator."""
    drawn = torch.randn(features.shape[1], directions).to(features)
    along = features @ (drawn / drawn.norm(dim=0))
    points = torch.linspace(-_REACH, _REACH, _KNOTS, device=features.device)
    normal = (-points.square() / 2).exp()
    turned = along[..., None] * points
    apart = (turned.cos().mean(0) - normal).square() + turned.sin().mean(0).square()
    density = normal / math.sqrt(2 * math.pi)
    return len(features) * torch.trapezoid(apart * density, points).mean()
