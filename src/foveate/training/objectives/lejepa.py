"""LeJEPA (Balestriero & LeCun 2025, arXiv 2511.08544): views predict their mean.

The projections are regularized towards a standard normal distribution, so that it needs no teacher,
no stop-gradient, and one weight.

Distributions are compared along random directions by their characteristic functions (the test of
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

# characteristic functions are compared at this many points in [-_MAX_POINT, _MAX_POINT]
_MAX_POINT, _POINTS = 5.0, 17


class LeJEPASettings(ObjectiveSettings):
    sigreg_weight: float = Field(
        0.05, gt=0, lt=1, description="weight of the regularization; the prediction has the rest"
    )
    directions: int = Field(256, ge=1, description="random directions per step")
    local_views: int = Field(2, ge=0, description="smaller views beside the two global ones")
    hidden: int = Field(512, ge=1, description="width of the hidden layers of the projector")
    width: int = Field(64, ge=1, description="width of the projection")


class LeJEPA(ContrastedViews):
    default_overrides: ClassVar[dict[str, Any]] = {"training.batch_size": 128}
    Settings: ClassVar[type[LeJEPASettings]] = LeJEPASettings

    settings: LeJEPASettings

    def head(self, backbone: Backbone) -> nn.Module:
        return Projector(backbone.width, self.settings.hidden, self.settings.width)

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        projections, weight = output.float(), self.settings.sigreg_weight
        mean = projections[: self.num_global_views].mean(0)
        statistics = [sigreg(view, self.settings.directions) for view in projections]
        return {
            "prediction": (1 - weight) * (projections - mean).square().mean(),
            "sigreg": weight * torch.stack(statistics).mean(),
        }


def sigreg(projections: Tensor, directions: int) -> Tensor:
    """Measure how far projections (B, P) are from a standard normal distribution.

    It is the mean Epps-Pulley statistic over random directions, drawn from torch's generator: B
    times the squared distance of the empirical characteristic function from that of a standard
    normal, weighted by the latter.
    """
    random = torch.randn(projections.shape[1], directions).to(projections)
    values = projections @ (random / random.norm(dim=0))
    points = torch.linspace(-_MAX_POINT, _MAX_POINT, _POINTS, device=projections.device)
    normal = (-points.square() / 2).exp()
    angles = values[..., None] * points
    distance = (angles.cos().mean(0) - normal).square() + angles.sin().mean(0).square()
    density = normal / math.sqrt(2 * math.pi)
    return len(projections) * torch.trapezoid(distance * density, points).mean()
