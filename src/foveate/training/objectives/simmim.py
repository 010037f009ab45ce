"""What lies under blanked squares is painted from the rest (SimMIM, Xie et al. 2022), on any backbone.

The paper blanks the tokens of a Transformer. Here the squares are blanked in the picture, to the mean colour, so that a
convolutional network can be asked as well (A2MIM, Li et al. 2023).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from foveate.modeling.backbones import Backbone
from foveate.training.objectives import Objective, ObjectiveSettings
from foveate.types import Batch, Provides
from foveate.utils.distributed import rand_share


class SimMIMSettings(ObjectiveSettings):
    area: float = Field(
        0.5, gt=0, le=1, description="smallest share of the image's area that a view shows"
    )
    color: float = Field(0.0, ge=0, le=1, description="strength of the random colours of views")
    mask_ratio: float = Field(
        0.6, gt=0, lt=1, description="share of the squares that are blanked"
    )
    cells: int = Field(7, ge=2, description="squares along a side of the picture")


class SimMIM(Objective):
    num_global_views: ClassVar[int] = 1
    needs = frozenset({Provides.MAPS})
    default_overrides: ClassVar[dict[str, Any]] = {"training.batch_size": 128}
    Settings: ClassVar[type[SimMIMSettings]] = SimMIMSettings

    settings: SimMIMSettings

    def head(self, backbone: Backbone) -> nn.Module:
        stride = backbone.map_strides[-1]
        return nn.Sequential(
            nn.Conv2d(backbone.map_widths[-1], 3 * stride**2, 1), nn.PixelShuffle(stride)
        )

    def forward(self, backbone: Backbone, head: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """What was painted (B, 3, S, S), and 1 where it had to be (B, 1, S, S)."""
        hidden = random_mask(batch.images, self.settings.cells, self.settings.mask_ratio)
        painted = head(backbone(batch.images * (1 - hidden), self.needs).maps[-1])
        side = batch.images.shape[-2:]
        return functional.interpolate(painted, side, mode="bilinear") if painted.shape[
            -2:
        ] != side else painted, hidden

    def loss(self, output: tuple[Tensor, Tensor], batch: Batch) -> dict[str, Tensor]:
        painted, hidden = output
        wrong = (painted.float() - batch.images).abs() * hidden
        return {"loss": wrong.sum() / (3 * hidden.sum()).clamp(min=1)}

    def reconstructions(self, output: tuple[Tensor, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        found, hidden = output
        seen = batch.images * (1 - hidden)
        return seen, seen + found * hidden


def random_mask(images: Tensor, cells: int, share: float) -> Tensor:
    """(B, 1, H, W), 1 on a `share` of the squares of each image; drawn from torch's generator."""
    count = max(1, round(share * cells**2))
    order = rand_share(len(images), cells**2).argsort(1).to(images.device)
    marks = torch.zeros(len(images), cells**2, device=images.device).scatter_(
        1, order[:, :count], 1.0
    )
    side = math.ceil(images.shape[-1] / cells)
    wide = marks.view(-1, 1, cells, cells).repeat_interleave(side, 2).repeat_interleave(side, 3)
    return wide[..., : images.shape[-2], : images.shape[-1]]
