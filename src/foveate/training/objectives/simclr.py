"""Two views of an image find each other among all views of a batch (SimCLR, Chen et al. 2020, equation 1)."""

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


class SimCLRSettings(ObjectiveSettings):
    temperature: float = Field(
        0.2, gt=0, description="of the similarities; small ones look at the hardest pairs"
    )
    hidden: int = Field(512, ge=1, description="width of the projector's middle layer")
    width: int = Field(128, ge=1, description="width of what is compared")


class SimCLR(ContrastedViews):
    default_overrides: ClassVar[dict[str, Any]] = {"training.batch_size": 256}
    Settings: ClassVar[type[SimCLRSettings]] = SimCLRSettings

    settings: SimCLRSettings

    def head(self, backbone: Backbone) -> nn.Module:
        return Projector(backbone.width, self.settings.hidden, self.settings.width, layers=2)

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"loss": nt_xent(output[0].float(), output[1].float(), self.settings.temperature)}


def nt_xent(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """(B, P) each -> NT-Xent: cross entropy of each view's partner among the 2 B - 1 other views, by cosine / temperature."""
    both = functional.normalize(torch.cat([one, other]), dim=1)
    alike = (both @ both.T / temperature).fill_diagonal_(float("-inf"))
    partner = torch.arange(len(both), device=both.device).roll(len(one))
    return functional.cross_entropy(alike, partner)
