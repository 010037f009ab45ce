"""Shared by objectives that compare views of an image.

Letters: B images, V global views, L local views, D width of a feature, P width of a projection,
S side, px.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from foveate.modeling.backbones import Backbone
from foveate.training.objectives import Objective
from foveate.types import Batch, Provides
from foveate.utils.distributed import gather_features

_POOLED = frozenset({Provides.POOLED})


def global_views(batch: Batch) -> Tensor:
    """Return (V, B, 3, S, S): all views at the size of the network."""
    others = torch.stack([target["global_views"] for target in batch.targets], 1)
    return torch.cat([batch.images[None], others])


def local_views(batch: Batch) -> Tensor | None:
    """Return (L, B, 3, s, s): the smaller views; None if there are none."""
    if "local_views" not in batch.targets[0]:
        return None
    return torch.stack([target["local_views"] for target in batch.targets], 1)


def pooled_views(backbone: Backbone, views: Tensor) -> Tensor:
    """(V, B, 3, S, S) -> (V, B, D), in one pass, so that batch normalization sees all views."""
    features = backbone(views.flatten(0, 1), _POOLED).pooled
    assert features is not None
    return torch.unflatten(features, 0, views.shape[:2])


def view_features(backbone: Backbone, batch: Batch) -> Tensor:
    """Return (V + L, B, D): features of all views, the global ones first."""
    features, small = pooled_views(backbone, global_views(batch)), local_views(batch)
    return features if small is None else torch.cat([features, pooled_views(backbone, small)])


class ContrastedViews(Objective):
    """Compares projections of all views, with those of images in other processes too."""

    def forward(self, backbone: Backbone, head: nn.Module, batch: Batch) -> Tensor:
        """Return (V + L, B, P)."""
        return gather_features(head(view_features(backbone, batch)))


class Projector(nn.Module):
    """(V, B, D) -> (V, B, P): linear layers, with batch normalization and ReLU between them.

    As in SimCLR (Chen et al. 2020) and VICReg.
    """

    def __init__(self, width: int, hidden: int, out: int, layers: int = 3) -> None:
        widths = [width, *[hidden] * (layers - 1)]
        modules: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            modules += [
                nn.Linear(inputs, outputs, bias=False),
                nn.BatchNorm1d(outputs),
                nn.ReLU(inplace=True),
            ]
        super().__init__()
        self.layers = nn.Sequential(*modules, nn.Linear(widths[-1], out))

    def forward(self, features: Tensor) -> Tensor:
        projections: Tensor = self.layers(features.flatten(0, 1))
        return projections.view(*features.shape[:2], projections.shape[1])
