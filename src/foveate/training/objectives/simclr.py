"""SimCLR (Chen et al. 2020): two views of an image find each other among all views of a batch."""

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
        0.2, gt=0, description="temperature of the similarities; a small one weighs hard pairs most"
    )
    hidden: int = Field(512, ge=1, description="width of the hidden layer of the projector")
    width: int = Field(128, ge=1, description="width of the projection")


class SimCLR(ContrastedViews):
    default_overrides: ClassVar[dict[str, Any]] = {"training.batch_size": 256}
    Settings: ClassVar[type[SimCLRSettings]] = SimCLRSettings

    settings: SimCLRSettings

    def head(self, backbone: Backbone) -> nn.Module:
        return Projector(backbone.width, self.settings.hidden, self.settings.width, layers=2)

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"loss": nt_xent(output[0].float(), output[1].float(), self.settings.temperature)}


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return NT-Xent (equation 1) of two views, (B, P) each.

    It is the cross entropy of each view's partner among the 2 B - 1 other views, by their cosine
    over the temperature.
    """
    views = functional.normalize(torch.cat([first, second]), dim=1)
    logits = (views @ views.T / temperature).fill_diagonal_(float("-inf"))
    partners = torch.arange(len(views), device=views.device).roll(len(first))
    return functional.cross_entropy(logits, partners)
