"""VICReg (Bardes et al. 2022): two views agree, and no dimension collapses or repeats another."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from foveate.modeling.backbones import Backbone
from foveate.training.objectives import ObjectiveSettings
from foveate.training.objectives._views import ContrastedViews, Projector
from foveate.types import Batch

_EPSILON = 1e-4  # in the square root of the variance, as in the paper


class VICRegSettings(ObjectiveSettings):
    invariance: float = Field(25.0, ge=0, description="weight of the agreement of both views")
    variance: float = Field(
        25.0, ge=0, description="weight of a standard deviation of at least 1 in each dimension"
    )
    covariance: float = Field(1.0, ge=0, description="weight of uncorrelated dimensions")
    width: int = Field(1024, ge=2, description="width of the projector and of the projection")


class VICReg(ContrastedViews):
    default_overrides: ClassVar[dict[str, Any]] = {"training.batch_size": 256}
    Settings: ClassVar[type[VICRegSettings]] = VICRegSettings

    settings: VICRegSettings

    def head(self, backbone: Backbone) -> nn.Module:
        return Projector(backbone.width, self.settings.width, self.settings.width)

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        views, weights = (output[0].float(), output[1].float()), self.settings
        invariance = functional.mse_loss(*views)
        variance = torch.stack([variance_loss(view) for view in views]).mean()
        covariance = torch.stack([covariance_loss(view) for view in views]).sum()
        return {
            "invariance": weights.invariance * invariance,
            "variance": weights.variance * variance,
            "covariance": weights.covariance * covariance,
        }


def variance_loss(features: Tensor) -> Tensor:
    """(B, P) -> mean over P of what the standard deviation lacks to 1 (equation 1)."""
    return functional.relu(1 - (features.var(0) + _EPSILON).sqrt()).mean()


def covariance_loss(features: Tensor) -> Tensor:
    """(B, P) -> sum of the squared covariances of different dimensions, over P (equation 4)."""
    centered = features - features.mean(0)
    covariance = centered.T @ centered / (len(features) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / features.shape[1]
