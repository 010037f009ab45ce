"""What objectives that compare views share.

Letters: B images, V views, D width of a feature, P width of a projection, S side, px.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from foveate.modeling.backbones import Backbone
from foveate.training.objectives import Objective
from foveate.types import Batch, Provides
from foveate.utils.distributed import gather_features

_WANTS = frozenset({Provides.POOLED})


def global_views(batch: Batch) -> Tensor:
    """(V, B, 3, S, S): all views at the network's size."""
    others = torch.stack([target["wide"] for target in batch.targets], 1)
    return torch.cat([batch.images[None], others])


def local_views(batch: Batch) -> Tensor | None:
    """(L, B, 3, s, s): the smaller ones; None where there are none."""
    if "narrow" not in batch.targets[0]:
        return None
    return torch.stack([target["narrow"] for target in batch.targets], 1)


def pooled_views(backbone: Backbone, views: Tensor) -> Tensor:
    """(V, B, 3, S, S) -> (V, B, D), in one pass, so that batch normalisation sees all of them."""
    found = backbone(views.flatten(0, 1), _WANTS).pooled
    assert found is not None
    return torch.unflatten(found, 0, views.shape[:2])


def view_features(backbone: Backbone, batch: Batch) -> Tensor:
    """(V + L, B, D): every view, the wide ones first."""
    found, small = pooled_views(backbone, global_views(batch)), local_views(batch)
    return found if small is None else torch.cat([found, pooled_views(backbone, small)])


class ContrastedViews(Objective):
    """Projections of all views are compared, with those of the images that other processes have."""

    def forward(self, backbone: Backbone, head: nn.Module, batch: Batch) -> Tensor:
        """(V + L, B, P)."""
        return gather_features(head(view_features(backbone, batch)))


class Projector(nn.Module):
    """(V, B, D) -> (V, B, P): linear layers, between them batch normalisation and ReLU (SimCLR, Chen et al. 2020; VICReg)."""

    def __init__(self, width: int, hidden: int, out: int, layers: int = 3) -> None:
        widths = [width, *[hidden] * (layers - 1)]
        parts: list[nn.Module] = []
        for here, there in pairwise(widths):
            parts += [
                nn.Linear(here, there, bias=False),
                nn.BatchNorm1d(there),
                nn.ReLU(inplace=True),
            ]
        super().__init__()
        self.layers = nn.Sequential(*parts, nn.Linear(widths[-1], out))

    def forward(self, features: Tensor) -> Tensor:
        found: Tensor = self.layers(features.flatten(0, 1))
        return found.view(*features.shape[:2], found.shape[1])
